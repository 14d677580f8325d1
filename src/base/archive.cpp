#include "base/archive.hpp"

namespace vert::base {

std::vector<u8> to_bytes(const Document& document) { return Document::to_cbor(document); }

Result<Document> from_bytes(const std::vector<u8>& bytes) {
  Document document = Document::from_cbor(bytes, /*strict=*/true, /*allow_exceptions=*/false);
  if (document.is_discarded()) return make_error("saved state is damaged: not well-formed CBOR");
  return document;
}

}  // namespace vert::base
