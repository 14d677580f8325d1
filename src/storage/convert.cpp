#include "storage/convert.hpp"

#include <algorithm>
#include <cerrno>

#include "storage/qcow2/qcow2_image.hpp"

namespace vert::storage {
namespace {

constexpr unsigned kWorkers = 8;
constexpr u64 kPiece = 2 << 20;  // also the largest cluster
/// Zeroes of this length within data are left out.
constexpr u64 kGrain = 4096;

bool is_zero(std::span<const u8> bytes) {
  return bytes.empty() ||
         (bytes[0] == 0 && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

/// Workers take one piece after the other; each is a coroutine, so that reads and writes overlap.
class Conversion {
 public:
  Conversion(Image& from, Image& to, ConvertOptions options)
      : from_(from), to_(to), options_(std::move(options)), qcow2_(dynamic_cast<qcow2::Qcow2Image*>(&to)) {
    // What a compressed write, or one on a backing image, deals with as a whole.
    if (qcow2_ != nullptr && (options_.compress || options_.backing != nullptr))
      grain_ = qcow2_->store().geometry().cluster_size();
  }

  Task<Result<ConvertResult>> run() {
    std::vector<Task<Status>> workers;
    for (unsigned i = 0; i < (options_.in_order ? 1 : kWorkers); ++i) workers.push_back(work());
    Status result;
    for (auto& worker : workers) {
      auto status = co_await worker;
      if (!status && result) result = std::move(status);
    }
    if (!result) co_return std::unexpected(std::move(result).error());
    co_return result_;
  }

 private:
  Task<Status> work() {
    const AlignedBytes buffer(kPiece);
    const AlignedBytes behind(options_.backing != nullptr ? kPiece : 0);
    while (next_ < from_.size() && !failed_) {
      const u64 offset = next_;
      const u64 length = std::min(kPiece, from_.size() - offset);
      next_ += length;
      auto status = co_await copy_piece(offset, buffer.span().first(length), behind.span());
      if (!status) {
        failed_ = true;
        co_return status;
      }
      done_ += length;
      if (!options_.progress || options_.progress(done_, from_.size())) continue;
      failed_ = true;
      co_return make_system_error(ECANCELED, "interrupted");
    }
    co_return Status{};
  }

  Task<Status> copy_piece(u64 offset, std::span<u8> bytes, std::span<u8> behind) {
    bool has_data = false;
    for (u64 done = 0; done < bytes.size() && !has_data;) {
      VERT_CO_ASSIGN(const auto extent, co_await from_.extent(offset + done, bytes.size() - done));
      has_data = extent.data;
      done += extent.length;
    }
    if (!has_data && options_.backing == nullptr) {
      result_.zeroes += bytes.size();
      co_return Status{};
    }
    const iovec whole = buffer_of(bytes);
    VERT_CO_TRY(co_await from_.read(offset, Buffers(&whole, 1)));
    if (options_.backing != nullptr) VERT_CO_TRY(co_await read_backing(offset, behind.first(bytes.size())));
    const auto differs = [&](u64 at) {
      const u64 size = std::min(grain_, bytes.size() - at);
      const auto here = bytes.subspan(at, size);
      if (options_.backing == nullptr) return !is_zero(here);
      return !std::ranges::equal(here, behind.subspan(at, size));
    };
    for (u64 at = 0; at < bytes.size();) {
      const bool is_data = differs(at);
      u64 end = at;
      do {
        end = std::min<u64>(end + grain_, bytes.size());
      } while (end < bytes.size() && !(is_data && options_.compress) && differs(end) == is_data);
      if (is_data) {
        VERT_CO_TRY(co_await write(offset + at, bytes.subspan(at, end - at)));
        result_.data += end - at;
      } else {
        result_.zeroes += end - at;
      }
      at = end;
    }
    co_return Status{};
  }

  Task<Status> read_backing(u64 offset, std::span<u8> bytes) {
    const u64 has = offset < options_.backing->size() ? options_.backing->size() - offset : 0;
    const auto here = bytes.first(std::min<u64>(has, bytes.size()));
    std::ranges::fill(bytes.subspan(here.size()), u8{0});
    if (here.empty()) co_return Status{};
    const iovec piece = buffer_of(here);
    co_return co_await options_.backing->read(offset, Buffers(&piece, 1));
  }

  Task<Status> write(u64 offset, std::span<u8> bytes) {
    if (options_.backing != nullptr && is_zero(bytes))
      co_return co_await to_.write_zeroes(offset, bytes.size(), true);
    if (options_.compress && qcow2_ != nullptr)
      co_return co_await qcow2_->write_compressed(offset, std::vector<u8>(bytes.begin(), bytes.end()));
    const iovec piece = buffer_of(bytes);
    co_return co_await to_.write(offset, Buffers(&piece, 1));
  }

  Image& from_;
  Image& to_;
  const ConvertOptions options_;
  qcow2::Qcow2Image* const qcow2_;
  u64 grain_ = kGrain;
  u64 next_ = 0;
  u64 done_ = 0;
  bool failed_ = false;
  ConvertResult result_;
};

}  // namespace

Task<Result<ConvertResult>> convert(Image& from, Image& to, ConvertOptions options) {
  Conversion conversion(from, to, std::move(options));
  co_return co_await conversion.run();
}

}  // namespace vert::storage
