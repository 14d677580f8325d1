#include "diff/harness/case.hpp"

#include "support/random.hpp"

namespace vert::diff {

const Page& read_only_page() {
  static const Page kPage = [] {
    Page page;
    test::Random random(0x0EAD'0171);
    for (u8& byte : page) byte = static_cast<u8>(random.next());
    return page;
  }();
  return kPage;
}

}  // namespace vert::diff
