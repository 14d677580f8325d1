#include "base/archive.hpp"

namespace vert::base {

namespace {

/// Builds the document, but gives up where lists and maps nest too deeply: the library's parser and much that
/// walks a document are recursive, and hostile bytes may nest without end. The same where they announce more
/// elements than there are bytes, which the library answers with an exception.
class BoundedBuilder final : public nlohmann::json_sax<Document> {
 public:
  BoundedBuilder(Document& document, std::size_t byte_count)
      : builder_(document, /*allow_exceptions=*/false), byte_count_(byte_count) {}

  bool null() override { return builder_.null(); }
  bool boolean(bool value) override { return builder_.boolean(value); }
  bool number_integer(number_integer_t value) override { return builder_.number_integer(value); }
  bool number_unsigned(number_unsigned_t value) override { return builder_.number_unsigned(value); }
  bool number_float(number_float_t value, const string_t& text) override {
    return builder_.number_float(value, text);
  }
  bool string(string_t& value) override { return builder_.string(value); }
  bool binary(binary_t& value) override { return builder_.binary(value); }
  bool start_object(std::size_t elements) override {
    return enter(elements) && builder_.start_object(elements);
  }
  bool key(string_t& value) override { return builder_.key(value); }
  bool end_object() override { return leave() && builder_.end_object(); }
  bool start_array(std::size_t elements) override {
    return enter(elements) && builder_.start_array(elements);
  }
  bool end_array() override { return leave() && builder_.end_array(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

 private:
  static constexpr unsigned kMaxDepth = 64;
  static constexpr std::size_t kUnknown = ~std::size_t{0};
  bool enter(std::size_t elements) {
    return ++depth_ <= kMaxDepth && (elements == kUnknown || elements <= byte_count_);
  }
  bool leave() {
    --depth_;
    return true;
  }

  nlohmann::detail::json_sax_dom_parser<Document> builder_;
  std::size_t byte_count_;
  unsigned depth_ = 0;
};

}  // namespace

std::vector<u8> to_bytes(const Document& document) { return Document::to_cbor(document); }

Result<Document> from_bytes(const std::vector<u8>& bytes) {
  Document document;
  BoundedBuilder builder(document, bytes.size());
  if (!Document::sax_parse(bytes, &builder, nlohmann::detail::input_format_t::cbor, /*strict=*/true))
    return make_error("saved state is damaged: not well-formed CBOR");
  return document;
}

}  // namespace vert::base
