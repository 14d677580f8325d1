// The state archive: how every component with guest-visible state saves and restores it (DESIGN: State).
//
// A component declares its state as one struct with one function that names its fields, used both ways:
//
//     struct PitState {
//       std::array<PitChannel, 3> channels;
//       u64 epoch_ns = 0;
//       template <typename Archive> void fields(Archive& a) {
//         a("channels", channels);
//         a("epoch_ns", epoch_ns);
//       }
//     };
//
// save() makes a self-describing document (JSON in memory, CBOR in files); restore() refuses a document
// with unknown, missing or ill-typed fields, or with another version, in one clear line. What restore()
// yields is only well-typed: the component must still check ranges, since a snapshot is hostile input.
#pragma once

#include <array>
#include <concepts>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/types.hpp"

namespace vert::base {

using Document = nlohmann::json;

namespace archive_internal {

template <typename T, typename Archive>
concept HasFields = requires(T& value, Archive& archive) {
  value.fields(archive);
};

class Saver {
 public:
  template <typename T>
  void operator()(const char* name, T& value) {
    document_[name] = encode(value);
  }
  Document take() { return std::move(document_); }

  template <typename T>
  static Document encode(T& value) {
    if constexpr (HasFields<T, Saver>) {
      Saver nested;
      value.fields(nested);
      return nested.take();
    } else if constexpr (std::is_enum_v<T>) {
      return Document(std::to_underlying(value));
    } else if constexpr (std::is_arithmetic_v<T> || std::same_as<T, std::string>) {
      return Document(value);
    } else if constexpr (std::same_as<T, std::vector<u8>>) {
      return Document::binary(value);
    } else {
      Document list = Document::array();
      for (auto& element : value) list.push_back(encode(element));
      return list;
    }
  }

 private:
  Document document_ = Document::object();
};

class Restorer {
 public:
  Restorer(const Document& document, std::string path) : document_(document), path_(std::move(path)) {
    if (!document.is_object()) fail(path_, "is not a set of fields");
  }

  template <typename T>
  void operator()(const char* name, T& value) {
    if (!error_.empty()) return;
    seen_.insert(name);
    const auto found = document_.find(name);
    if (found == document_.end()) return fail(path_ + "." + name, "is missing");
    decode(*found, value, path_ + "." + name);
  }

  /// Empty when all went well and every field of the document was asked for.
  std::string finish() {
    if (!error_.empty()) return error_;
    for (const auto& item : document_.items()) {
      if (!seen_.contains(item.key())) fail(path_ + "." + item.key(), "is not known to this version of vert");
    }
    return error_;
  }

 private:
  void fail(const std::string& where, const char* what) {
    if (error_.empty()) error_ = where + " " + what;
  }

  template <typename T>
  void decode(const Document& from, T& value, const std::string& path) {
    if constexpr (HasFields<T, Restorer>) {
      Restorer nested(from, path);
      if (nested.error_.empty()) value.fields(nested);
      error_ = nested.finish();
    } else if constexpr (std::is_enum_v<T>) {
      std::underlying_type_t<T> number{};
      decode(from, number, path);
      value = static_cast<T>(number);
    } else if constexpr (std::same_as<T, bool>) {
      if (!from.is_boolean()) return fail(path, "is not true or false");
      value = from.template get<bool>();
    } else if constexpr (std::is_integral_v<T>) {
      if (!from.is_number_integer()) return fail(path, "is not a whole number");
      if (from.is_number_unsigned() ? !std::in_range<T>(from.template get<u64>())
                                    : !std::in_range<T>(from.template get<i64>()))
        return fail(path, "is out of range");
      value = from.is_number_unsigned() ? static_cast<T>(from.template get<u64>())
                                        : static_cast<T>(from.template get<i64>());
    } else if constexpr (std::same_as<T, std::string>) {
      if (!from.is_string()) return fail(path, "is not a string");
      value = from.template get<std::string>();
    } else if constexpr (std::same_as<T, std::vector<u8>>) {
      if (!from.is_binary()) return fail(path, "is not bytes");
      value = from.get_binary();
    } else {
      if (!from.is_array()) return fail(path, "is not a list");
      if constexpr (requires { value.resize(from.size()); }) {
        value.resize(from.size());
      } else if (from.size() != value.size()) {
        return fail(path, "has the wrong length");
      }
      for (std::size_t i = 0; i < value.size() && error_.empty(); ++i)
        decode(from[i], value[i], path + "[" + std::to_string(i) + "]");
    }
  }

  const Document& document_;
  std::string path_;
  std::set<std::string, std::less<>> seen_;
  std::string error_;
};

}  // namespace archive_internal

/// The state as a document, under the component's name and version.
template <typename State>
[[nodiscard]] Document save(std::string_view component, u32 version, const State& state) {
  State copy = state;  // fields() serves both ways, so it takes a mutable struct
  return Document{
      {"component", component}, {"version", version}, {"state", archive_internal::Saver::encode(copy)}};
}

/// The state from a document that save() made for the same component and version.
template <typename State>
[[nodiscard]] Result<State> restore(std::string_view component, u32 version, const Document& document) {
  const auto field = [&](const char* name) {
    return document.is_object() ? document.find(name) : document.end();
  };
  const auto named = field("component");
  if (named == document.end() || !named->is_string() || named->template get<std::string>() != component)
    return make_error("saved state is not that of {}", component);
  const auto versioned = field("version");
  if (versioned == document.end() || !versioned->is_number_unsigned() ||
      versioned->template get<u64>() != version)
    return make_error("saved state of {} has another version than {}", component, version);
  const auto body = field("state");
  if (body == document.end()) return make_error("saved state of {} is empty", component);
  if (document.size() != 3) return make_error("saved state of {} has fields beside it", component);
  State state{};
  archive_internal::Restorer restorer(*body, std::string(component));
  if (body->is_object()) state.fields(restorer);
  if (const std::string error = restorer.finish(); !error.empty())
    return make_error("saved state: {}", error);
  return state;
}

/// Documents as bytes (CBOR, RFC 8949) and back. Bytes are hostile: anything ill-formed is an error.
[[nodiscard]] std::vector<u8> to_bytes(const Document& document);
[[nodiscard]] Result<Document> from_bytes(const std::vector<u8>& bytes);

}  // namespace vert::base
