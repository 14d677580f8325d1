#include "fuzz/qcow2/edited_image.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "fuzz/qcow2/qcow2_harness.hpp"
#include "support/image_rig.hpp"
#include "support/scripted_context.hpp"

namespace vert::storage::qcow2 {
namespace {

using Bytes = std::vector<u8>;

/// One change, as it lies in the input.
struct Edit {
  u8 action = 0;
  std::array<u8, 3> place{};
  u32 value = 0;
};
constexpr u64 kEditSize = 8;
static_assert(sizeof(Edit) == kEditSize);

/// With all that the format has, small enough to be changed everywhere.
Bytes make_seed(u64 cluster, u32 version) {
  const test::TemporaryFolder folder;
  test::ScriptedContext context(1);
  const std::string path = folder / "seed";
  NewImage made;
  made.size = cluster * 300;
  made.qcow2.cluster_size = cluster;
  made.qcow2.version = version;
  VERT_CHECK(context.complete(create_image(context, path, made)));
  auto image = test::open_qcow2(context, path);
  VERT_CHECK(image->write(0, Bytes(cluster * 5, 1)));
  VERT_CHECK(context.complete((*image)->write_compressed(cluster * 8, Bytes(cluster, 2))));
  VERT_CHECK(image->snapshot("first"));
  VERT_CHECK(image->write(cluster * 2, Bytes(cluster * 3, 3)));
  VERT_CHECK(image->write_zeroes(0, cluster, false));
  VERT_CHECK(image->close());
  return test::file_bytes(path);
}

const std::vector<Bytes>& seeds() {
  static const std::vector<Bytes> images = [] {
    std::vector<Bytes> made;
    for (const u64 cluster : {u64{512}, u64{4096}, u64{65536}})
      for (const u32 version : {2U, 3U}) made.push_back(make_seed(cluster, version));
    return made;
  }();
  return images;
}

/// Big-endian, at a multiple of its size.
template <typename T>
void put(Bytes& image, u64 place, T value) {
  if (image.size() < sizeof(T)) return;
  place = std::min<u64>(place, image.size() - sizeof(T)) & ~u64{sizeof(T) - 1};
  store_be<T>(image.data() + place, value);
}

/// Moves what describes one part of the disk to where another part is described.
void copy_sector(Bytes& image, u64 to, u64 from) {
  const u64 sectors = image.size() / kSectorSize;
  if (sectors == 0) return;
  std::memmove(image.data() + to / kSectorSize % sectors * kSectorSize,
               image.data() + from % sectors * kSectorSize, kSectorSize);
}

void apply_edit(const Edit& edit, Bytes& image) {
  constexpr u8 kAction = 0x07;
  constexpr u8 kAtTheFront = 0x08;
  constexpr u8 kWithCopied = 0x10;
  constexpr u8 kWithCompressed = 0x20;
  constexpr u8 kWithZero = 0x40;
  constexpr u64 kFront = 4096;
  constexpr u64 kMostSize = 1 << 20;
  if (image.empty()) return;
  const auto has = [&](u8 flag) { return (edit.action & flag) != 0; };
  u64 place = edit.place[0] | u64{edit.place[1]} << 8 | u64{edit.place[2]} << 16;
  place %= has(kAtTheFront) ? std::min<u64>(image.size(), kFront) : image.size();
  const u64 value = edit.value;
  const u64 flags = (has(kWithCopied) ? kCopied : 0) | (has(kWithCompressed) ? kCompressedFlag : 0) |
                    (has(kWithZero) ? kZeroFlag : 0);
  switch (edit.action & kAction) {
    case 0: put<u8>(image, place, static_cast<u8>(value)); break;
    case 1: put<u32>(image, place, edit.value); break;
    case 2: put<u64>(image, place, value | flags); break;
    case 3: put<u64>(image, place, value * kSectorSize % image.size() | flags); break;
    case 4: put<u64>(image, place, value << 32 | flags); break;
    case 5: copy_sector(image, place, value); break;
    case 6: image.resize(value % kMostSize); break;
    default: image[place] = static_cast<u8>(image[place] ^ (1U << (value & 7))); break;
  }
}

}  // namespace

bool exercise_edited_image(std::span<const u8> input) {
  if (input.empty()) return false;
  Bytes image = seeds()[input[0] % seeds().size()];
  for (input = input.subspan(1); input.size() >= kEditSize; input = input.subspan(kEditSize)) {
    Edit edit;
    std::memcpy(&edit, input.data(), kEditSize);
    apply_edit(edit, image);
  }
  return exercise_image(image);
}

}  // namespace vert::storage::qcow2
