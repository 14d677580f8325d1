#include "storage/qcow2/qcow2_image.hpp"

#include <algorithm>

#include "storage/qcow2/compression.hpp"

namespace vert::storage::qcow2 {

Status Qcow2Image::check_writable() const {
  if (store_.broken) return std::unexpected(*store_.broken);
  if (!read_only_) return {};
  return failure(EROFS, "'{}' is open for reading only", store_.file->path());
}

Task<Status> Qcow2Image::settle_failure(Status status) {
  if (status || status.error().system_error != EUCLEAN) co_return status;
  co_return std::unexpected(co_await store_.mark_corrupt(std::move(status).error()));
}

/// With cache=writethrough, whatever changes is on the disk when it ends.
Task<Status> Qcow2Image::finish_change(Status status) {
  if (!status) co_return co_await settle_failure(std::move(status));
  if (store_.file->cache() != CacheMode::kWritethrough) co_return status;
  const auto guard = co_await store_.lock.lock();
  co_return co_await settle_failure(co_await store_.sync());
}

Task<Status> Qcow2Image::read(u64 offset, Buffers buffers) {
  Requests::Request request(store_.requests);
  while (!request.try_enter()) co_await store_.requests.changed();
  const u64 size = total_size(buffers);
  if (size == 0) co_return Status{};
  Status status;
  if (const auto data = store_.mapping.find_data(offset, size))
    status = co_await store_.file->read(data->host, buffers);
  else
    status = co_await read_range(offset, buffers);
  if (status) co_return status;
  co_return co_await settle_failure(std::move(status));
}

Task<Status> Qcow2Image::read_range(u64 guest, Buffers buffers) {
  const u64 size = total_size(buffers);
  std::vector<Task<Status>> pieces;
  Status result;
  for (u64 done = 0; done < size && result;) {
    auto run = co_await store_.mapping.look_up(guest + done, size - done);
    if (!run) {
      result = std::unexpected(std::move(run).error());
      break;
    }
    pieces.push_back(read_run(*run, guest + done, slice(buffers, done, run->length)));
    done += run->length;
  }
  for (auto& piece : pieces) {
    auto status = co_await piece;
    if (!status && result) result = std::move(status);
  }
  co_return result;
}

Task<Status> Qcow2Image::read_run(Run run, u64 guest, std::vector<iovec> buffers) {
  switch (run.kind) {
    case Kind::kUnallocated: co_return co_await read_backing(guest, std::move(buffers));
    case Kind::kData: co_return co_await store_.file->read(run.host, buffers);
    case Kind::kCompressed:
      co_return co_await read_compressed(run.entry, geometry().in_cluster(guest), std::move(buffers));
    case Kind::kZero:
    case Kind::kZeroAllocated: break;
  }
  fill_zero(buffers);
  co_return Status{};
}

u64 Qcow2Image::backed(u64 guest, u64 length) const {
  if (backing_ == nullptr || guest >= backing_->size()) return 0;
  return std::min(length, backing_->size() - guest);
}

bool Qcow2Image::reads_as_zeroes(const Run& run, u64 guest) const {
  if (run.kind == Kind::kUnallocated) return backed(guest, run.length) == 0;
  return run.kind == Kind::kZero || run.kind == Kind::kZeroAllocated;
}

Task<Status> Qcow2Image::read_backing(u64 guest, std::vector<iovec> buffers) {
  const u64 size = total_size(buffers);
  const u64 here = backed(guest, size);
  fill_zero(slice(buffers, here, size - here));
  if (here == 0) co_return Status{};
  const auto part = slice(buffers, 0, here);
  co_return co_await backing_->read(guest, part);
}

Task<Status> Qcow2Image::read_compressed(u64 entry, u64 in_cluster, std::vector<iovec> buffers) {
  const u64 frees = store_.frees;
  if (decompressed_.bytes.empty() || decompressed_.entry != entry || decompressed_.frees != frees) {
    const auto place = compressed_place(geometry(), entry);
    std::vector<u8> packed(place.length);
    VERT_CO_TRY(co_await read_bytes(*store_.file, place.offset, packed));
    std::vector<u8> bytes(geometry().cluster_size());
    if (!decompress(store_.header.compression, packed, bytes))
      co_return corruption("'{}' is corrupt: the compressed cluster at {:#x} cannot be read",
                           store_.file->path(), place.offset);
    decompressed_ = {entry, frees, std::move(bytes)};
  }
  copy_to(buffers, std::span<const u8>(decompressed_.bytes).subspan(in_cluster, total_size(buffers)));
  co_return Status{};
}

Task<Result<Image::Extent>> Qcow2Image::extent(u64 offset, u64 length) {
  Requests::Request request(store_.requests);
  while (!request.try_enter()) co_await store_.requests.changed();
  auto run = co_await store_.mapping.look_up(offset, length);
  if (!run) co_return std::unexpected((co_await settle_failure(std::unexpected(run.error()))).error());
  Extent extent{run->length, run->kind == Kind::kData || run->kind == Kind::kCompressed, true};
  if (run->kind != Kind::kUnallocated) co_return extent;
  extent.allocated = false;
  const u64 here = backed(offset, run->length);
  if (here == 0) co_return extent;
  VERT_CO_ASSIGN(const auto behind, co_await backing_->extent(offset, here));
  extent.length = behind.length;
  extent.data = behind.data;
  co_return extent;
}

Task<Status> Qcow2Image::flush() {
  Requests::Request request(store_.requests);
  while (!request.try_enter()) co_await store_.requests.changed();
  if (read_only_) co_return Status{};
  if (store_.broken) co_return std::unexpected(*store_.broken);
  const auto guard = co_await store_.lock.lock();
  co_return co_await settle_failure(co_await store_.sync());
}

Task<Status> Qcow2Image::close() {
  Requests::Exclusion exclusion(store_.requests);
  while (!exclusion.try_enter()) co_await store_.requests.changed();
  if (read_only_ || store_.broken) co_return Status{};
  co_return co_await settle_failure(co_await store_.settle());
}

}  // namespace vert::storage::qcow2
