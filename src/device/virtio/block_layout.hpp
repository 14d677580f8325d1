// What a block device and its driver tell each other (virtio 1.2, 5.2). All fields are little-endian.
#pragma once

#include <cstddef>

#include "base/types.hpp"

namespace vert::device::virtio::block {

inline constexpr u32 kSectorSize = 512;  // of capacity and requests, whatever the disk's own is
inline constexpr u32 kIdSize = 20;

namespace feature {
inline constexpr u64 kSegmentMax = u64{1} << 2;
inline constexpr u64 kReadOnly = u64{1} << 5;
inline constexpr u64 kBlockSize = u64{1} << 6;
inline constexpr u64 kFlush = u64{1} << 9;
inline constexpr u64 kTopology = u64{1} << 10;
inline constexpr u64 kConfigWriteback = u64{1} << 11;
inline constexpr u64 kMultiQueue = u64{1} << 12;
inline constexpr u64 kDiscard = u64{1} << 13;
inline constexpr u64 kWriteZeroes = u64{1} << 14;
}  // namespace feature

/// The configuration space (5.2.4).
struct Config {
  u64 capacity = 0;  // in sectors
  u32 size_max = 0;
  u32 seg_max = 0;
  u16 cylinders = 0;
  u8 heads = 0;
  u8 sectors = 0;
  u32 block_size = kSectorSize;
  u8 physical_block_exponent = 0;  // 2^n logical blocks are a physical one
  u8 alignment_offset = 0;
  u16 min_io_blocks = 0;
  u32 optimal_io_blocks = 0;
  u8 writeback = 0;
  u8 unused0 = 0;
  u16 queue_count = 0;
  u32 max_discard_sectors = 0;
  u32 max_discard_segments = 0;
  u32 discard_sector_alignment = 0;
  u32 max_write_zeroes_sectors = 0;
  u32 max_write_zeroes_segments = 0;
  u8 write_zeroes_may_unmap = 0;
  u8 unused1[3] = {};
};
static_assert(offsetof(Config, writeback) == 32 && offsetof(Config, max_discard_sectors) == 36 &&
              offsetof(Config, write_zeroes_may_unmap) == 56);

enum RequestType : u32 {
  kIn = 0,
  kOut = 1,
  kFlush = 4,
  kGetId = 8,
  kDiscard = 11,
  kWriteZeroes = 13,
};

/// In front of each request's data; behind it is one byte, the status (5.2.6).
struct Header {
  u32 type = 0;
  u32 reserved = 0;
  u64 sector = 0;
};
static_assert(sizeof(Header) == 16);

/// The data of a discard or of write zeroes.
struct Segment {
  u64 sector = 0;
  u32 sectors = 0;
  u32 flags = 0;
};
inline constexpr u32 kUnmapFlag = 1;

enum RequestStatus : u8 { kOk = 0, kIoError = 1, kUnsupported = 2 };

}  // namespace vert::device::virtio::block
