// Writing to a qcow2 image: in place where that is possible, else to new clusters.
#include <algorithm>

#include "storage/qcow2/compression.hpp"
#include "storage/qcow2/qcow2_image.hpp"

namespace vert::storage::qcow2 {

/// Whatever the tables say, the guest's data does not go to where metadata is.
Status Qcow2Image::check_place(u64 host, u64 length) const {
  const u64 first = host >> geometry().cluster_bits;
  const u64 last = (host + length - 1) >> geometry().cluster_bits;
  const auto part = store_.metadata.find(first, last - first + 1);
  if (!part) return {};
  return corruption("'{}' is corrupt: its {} is also the guest's data (at {:#x})", store_.file->path(),
                    MetadataMap::name_of(*part), host);
}

Task<Status> Qcow2Image::write(u64 offset, Buffers buffers) {
  Requests::Request request(store_.requests);
  while (!request.try_enter()) co_await store_.requests.changed();
  VERT_CO_TRY(check_writable());
  const u64 size = total_size(buffers);
  if (size == 0) co_return Status{};
  Status status;
  const auto data = store_.mapping.find_data(offset, size);
  if (data && data->copied) {
    status = check_place(data->host, size);
    if (status) {
      const Requests::Writing writing(store_.requests, data->host, size);
      status = co_await store_.file->write(data->host, buffers);
    }
  } else {
    status = co_await write_range(offset, buffers);
  }
  if (status && store_.file->cache() != CacheMode::kWritethrough) co_return status;
  co_return co_await finish_change(std::move(status));
}

Task<Status> Qcow2Image::write_range(u64 guest, Buffers buffers) {
  const u64 size = total_size(buffers);
  std::vector<Task<Status>> pieces;
  Status result;
  for (u64 done = 0; done < size && result;) {
    auto run = co_await store_.mapping.look_up(guest + done, size - done);
    if (!run) {
      result = std::unexpected(std::move(run).error());
    } else if (is_in_place(*run)) {
      result = check_place(run->host, run->length);
      if (result) pieces.push_back(write_in_place(run->host, slice(buffers, done, run->length)));
      done += run->length;
    } else {
      auto written = co_await write_allocating(guest + done, slice(buffers, done, size - done));
      if (written)
        done += *written;
      else
        result = std::unexpected(std::move(written).error());
    }
  }
  for (auto& piece : pieces) {
    auto status = co_await piece;
    if (!status && result) result = std::move(status);
  }
  co_return result;
}

Task<Status> Qcow2Image::write_in_place(u64 host, std::vector<iovec> buffers) {
  const Requests::Writing writing(store_.requests, host, total_size(buffers));
  co_return co_await store_.file->write(host, buffers);
}

/// Writes as much as it can to clusters of their own; gives how much that was, 0 if the clusters have got a
/// place meanwhile.
Task<Result<u64>> Qcow2Image::write_allocating(u64 guest, std::vector<iovec> buffers) {
  const u64 size = std::min(total_size(buffers), geometry().l2_reach() - guest % geometry().l2_reach());
  Reservations::Reservation reservation(reservations_, guest >> geometry().cluster_bits,
                                        (guest + size - 1) >> geometry().cluster_bits);
  while (!reservation.try_take()) co_await reservations_.released();
  VERT_CO_TRY(check_writable());
  VERT_CO_ASSIGN(const Run run, co_await store_.mapping.look_up(guest, size));
  if (is_in_place(run)) co_return u64{0};
  VERT_CO_ASSIGN(const Place place, co_await find_place(run, guest, run.length));
  const u64 room = (place.run.count << geometry().cluster_bits) - geometry().in_cluster(guest);
  const u64 length = std::min(run.length, room);
  auto status = co_await write_clusters(place, run, guest, slice(buffers, 0, length));
  if (status) status = co_await link(place, guest);
  if (status) co_return length;
  VERT_CO_TRY(co_await give_back(place));
  co_return std::unexpected(std::move(status).error());
}

/// Clusters for a range that is alike.
Task<Result<Qcow2Image::Place>> Qcow2Image::find_place(Run run, u64 guest, u64 length) {
  const auto guard = co_await store_.lock.lock();
  VERT_CO_TRY(check_writable());
  if (store_.has_much_to_write()) VERT_CO_TRY(co_await store_.sync());
  VERT_CO_TRY(co_await store_.own_l2_table(guest));
  const u64 count = geometry().clusters(geometry().in_cluster(guest) + length);
  if (run.kind == Kind::kZeroAllocated && run.copied) {
    const u64 first = run.host >> geometry().cluster_bits;
    VERT_CO_TRY(check_place(geometry().cluster_start(run.host), count << geometry().cluster_bits));
    co_return Place{{first, count, false}, false};
  }
  VERT_CO_ASSIGN(const auto found, co_await store_.allocate(count));
  co_return Place{found, true};
}

Task<Status> Qcow2Image::give_back(Place place) {
  if (!place.is_new) co_return Status{};
  const auto guard = co_await store_.lock.lock();
  co_return co_await store_.give_back(place.run);
}

/// The guest's data, and around it what the first and the last cluster had before.
Task<Status> Qcow2Image::write_clusters(Place place, Run old, u64 guest, std::vector<iovec> buffers) {
  const u64 length = total_size(buffers);
  const u64 end = guest + length;
  // What surrounds the data is zeroes, and so is the file there.
  const bool is_blank = place.run.fresh && reads_as_zeroes(old, geometry().cluster_start(guest));
  const u64 before = is_blank ? 0 : geometry().in_cluster(guest);
  const u64 behind = is_blank || geometry().in_cluster(end) == 0
                         ? 0
                         : geometry().cluster_size() - geometry().in_cluster(end);
  const AlignedBytes head(before);
  const AlignedBytes tail(behind);
  std::vector<iovec> whole;
  if (before != 0) {
    whole.push_back(buffer_of(head.span()));
    VERT_CO_TRY(co_await read_range(guest - before, Buffers(whole.data(), 1)));
  }
  whole.insert(whole.end(), buffers.begin(), buffers.end());
  if (behind != 0) {
    // Behind the disk's end there are zeroes.
    const iovec rest = buffer_of(tail.span().first(std::min(behind, size_ - end)));
    if (rest.iov_len != 0) VERT_CO_TRY(co_await read_range(end, Buffers(&rest, 1)));
    whole.push_back(buffer_of(tail.span()));
  }
  const u64 host = (place.run.cluster << geometry().cluster_bits) + geometry().in_cluster(guest) - before;
  co_return co_await store_.file->write(host, whole);
}

/// Lets the tables name the clusters that were written.
Task<Status> Qcow2Image::link(Place place, u64 guest) {
  const auto guard = co_await store_.lock.lock();
  const u64 first = geometry().cluster_start(guest);
  for (u64 i = 0; i < place.run.count; ++i) {
    const u64 at = first + (i << geometry().cluster_bits);
    VERT_CO_ASSIGN(const u64 old, co_await store_.mapping.entry(at));
    VERT_CO_TRY(co_await store_.mapping.set_entry(
        at, ((place.run.cluster + i) << geometry().cluster_bits) | kCopied));
    if (place.is_new) store_.release_entry(old);
  }
  co_return Status{};
}

Task<Status> Qcow2Image::write_zeroes(u64 offset, u64 length, bool unmap) {
  Requests::Request request(store_.requests);
  while (!request.try_enter()) co_await store_.requests.changed();
  VERT_CO_TRY(check_writable());
  if (length == 0) co_return Status{};
  co_return co_await finish_change(co_await zero_range(offset, length, unmap));
}

Task<Status> Qcow2Image::zero_range(u64 guest, u64 length, bool unmap) {
  const u64 end = guest + length;
  const u64 first = geometry().clusters(guest) << geometry().cluster_bits;
  // The disk's last cluster may be cut short.
  const u64 last = end == size_ ? end : geometry().cluster_start(end);
  if (first >= last) co_return co_await zero_bytes(guest, length);
  if (guest < first) VERT_CO_TRY(co_await zero_bytes(guest, first - guest));
  if (geometry().version >= 3) {
    VERT_CO_TRY(co_await change_clusters(first, last - first, unmap ? Change::kZeroAndUnmap : Change::kZero));
  } else {
    // Version 2 has no zero clusters: what a backing image has must be hidden by data.
    const u64 here = backed(first, last - first);
    const u64 hidden =
        here == 0 ? first : std::min(last, geometry().clusters(first + here) << geometry().cluster_bits);
    if (hidden != first) VERT_CO_TRY(co_await zero_bytes(first, hidden - first));
    if (hidden != last) VERT_CO_TRY(co_await change_clusters(hidden, last - hidden, Change::kZeroAndUnmap));
  }
  if (last < end) co_return co_await zero_bytes(last, end - last);
  co_return Status{};
}

/// As data, where there are not zeroes already.
Task<Status> Qcow2Image::zero_bytes(u64 guest, u64 length) {
  constexpr u64 kPiece = 1 << 20;
  const AlignedBytes zeroes(std::min(length, kPiece));
  for (u64 done = 0; done < length;) {
    VERT_CO_ASSIGN(const Run run,
                   co_await store_.mapping.look_up(guest + done, std::min(length - done, kPiece)));
    if (!reads_as_zeroes(run, guest + done)) {
      const iovec piece = buffer_of(zeroes.span().first(run.length));
      VERT_CO_TRY(co_await write_range(guest + done, Buffers(&piece, 1)));
    }
    done += run.length;
  }
  co_return Status{};
}

Task<Status> Qcow2Image::discard(u64 offset, u64 length) {
  Requests::Request request(store_.requests);
  while (!request.try_enter()) co_await store_.requests.changed();
  VERT_CO_TRY(check_writable());
  const u64 first = geometry().clusters(offset) << geometry().cluster_bits;
  const u64 last = offset + length == size_ ? size_ : geometry().cluster_start(offset + length);
  if (first >= last) co_return Status{};
  co_return co_await finish_change(co_await change_clusters(first, last - first, Change::kDiscard));
}

Task<Status> Qcow2Image::change_clusters(u64 guest, u64 length, Change change) {
  // So much as one piece of an L2 table, in order that others get the lock in between.
  const u64 reach = u64{kSectorSize} << geometry().cluster_bits;
  for (u64 done = 0; done < length;) {
    const u64 part = std::min({length - done, reach - (guest + done) % reach,
                               geometry().l2_reach() - (guest + done) % geometry().l2_reach()});
    VERT_CO_TRY(co_await change_piece(guest + done, part, change));
    done += part;
  }
  co_return Status{};
}

Task<Status> Qcow2Image::change_piece(u64 guest, u64 length, Change change) {
  Reservations::Reservation reservation(reservations_, guest >> geometry().cluster_bits,
                                        (guest + length - 1) >> geometry().cluster_bits);
  while (!reservation.try_take()) co_await reservations_.released();
  const auto guard = co_await store_.lock.lock();
  VERT_CO_TRY(check_writable());
  const bool has_table = (store_.mapping.l1()[store_.mapping.l1_index(guest)] & kOffsetMask) != 0;
  if (!has_table && backed(guest, length) == 0) co_return Status{};
  if (store_.has_much_to_write()) VERT_CO_TRY(co_await store_.sync());
  VERT_CO_TRY(co_await store_.begin_changes());
  for (u64 at = guest; at < guest + length; at += geometry().cluster_size()) {
    VERT_CO_ASSIGN(const u64 old, co_await store_.mapping.entry(at));
    const u64 next = changed_entry(old, change, backed(at, geometry().cluster_size()) != 0);
    if (next == old) continue;
    VERT_CO_TRY(co_await store_.own_l2_table(at));
    VERT_CO_TRY(co_await store_.mapping.set_entry(at, next));
    if ((next & kOffsetMask) == 0) store_.release_entry(old);
  }
  co_return Status{};
}

u64 Qcow2Image::changed_entry(u64 entry, Change change, bool is_backed) const {
  const bool is_compressed = (entry & kCompressedFlag) != 0;
  const bool has_place = is_compressed || (entry & kOffsetMask) != 0;
  if (change == Change::kUnmap) return 0;
  if (geometry().version == 2) {
    // No zero clusters. A discard must not bring back what the backing image has.
    return is_backed ? entry : 0;
  }
  if (change == Change::kZero && has_place && !is_compressed) return entry | kZeroFlag;
  if (!has_place && (entry & kZeroFlag) == 0 && !is_backed) return entry;
  return kZeroFlag;
}

Task<Status> Qcow2Image::write_compressed(u64 offset, std::vector<u8> bytes) {
  Requests::Request request(store_.requests);
  while (!request.try_enter()) co_await store_.requests.changed();
  VERT_CO_TRY(check_writable());
  const u64 length = bytes.size();
  bytes.resize(geometry().cluster_size());
  auto packed = compress(store_.header.compression, bytes);
  if (!packed) {
    const iovec piece = buffer_of(std::span<u8>(bytes).first(length));
    co_return co_await finish_change(co_await write_range(offset, Buffers(&piece, 1)));
  }
  const u64 cluster = offset >> geometry().cluster_bits;
  Reservations::Reservation reservation(reservations_, cluster, cluster);
  while (!reservation.try_take()) co_await reservations_.released();
  VERT_CO_ASSIGN(const auto place, co_await place_compressed(offset, packed->size()));
  auto status = co_await write_bytes(*store_.file, place.offset, std::move(*packed));
  if (status) status = co_await link_compressed(offset, place);
  co_return co_await finish_change(std::move(status));
}

/// Behind the last compressed cluster if there is room, else at a new cluster's start. A failure later on
/// leaves a leak.
Task<Result<CompressedPlace>> Qcow2Image::place_compressed(u64 guest, u64 length) {
  const auto guard = co_await store_.lock.lock();
  VERT_CO_TRY(check_writable());
  if (store_.has_much_to_write()) VERT_CO_TRY(co_await store_.sync());
  VERT_CO_TRY(co_await store_.own_l2_table(guest));
  const unsigned bits = geometry().cluster_bits;
  const u64 room =
      (geometry().cluster_size() - geometry().in_cluster(store_.compressed_end)) % geometry().cluster_size();
  u64 start = store_.compressed_end;
  bool shares = room != 0;
  if (shares) {
    VERT_CO_ASSIGN(const u64 count, co_await store_.refcounts.get(start >> bits));
    shares = count != 0 && count < geometry().max_refcount();
  }
  if (!shares || length > room) {
    VERT_CO_ASSIGN(const auto run, co_await store_.allocate(1));
    const u64 offset = run.cluster << bits;
    shares = shares && offset == start + room;
    if (!shares) start = offset;
  }
  if (start + length >= u64{1} << geometry().compressed_offset_bits())
    co_return failure(EFBIG, "'{}' is too large for compressed clusters", store_.file->path());
  if (shares) {
    VERT_CO_ASSIGN(const u64 count, co_await store_.refcounts.add(start >> bits, 1));
    static_cast<void>(count);
  }
  store_.compressed_end = start + length;
  co_return CompressedPlace{start, length};
}

Task<Status> Qcow2Image::link_compressed(u64 guest, CompressedPlace place) {
  const auto guard = co_await store_.lock.lock();
  VERT_CO_ASSIGN(const u64 old, co_await store_.mapping.entry(guest));
  const u64 sectors = (place.offset + place.length - 1) / kSectorSize - place.offset / kSectorSize;
  const u64 entry = kCompressedFlag | sectors << geometry().compressed_offset_bits() | place.offset;
  VERT_CO_TRY(co_await store_.mapping.set_entry(guest, entry));
  store_.release_entry(old);
  co_return Status{};
}

}  // namespace vert::storage::qcow2
