#include "machine/disk_boot/ext_journal.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

namespace vert::machine::disk_boot {

namespace {

constexpr u32 kMaxBlocks = u32{1} << 20;  // mke2fs makes a quarter of that
constexpr u32 kHeaderSize = 12;

enum BlockType : u32 { kDescriptor = 1, kCommit = 2, kSuperblock1 = 3, kSuperblock2 = 4, kRevoke = 5 };

// Features, and flags of a tag
constexpr u32 k64Bit = 0x2;
constexpr u32 kChecksums2 = 0x8;
constexpr u32 kChecksums3 = 0x10;
constexpr u32 kFastCommit = 0x20;
constexpr u32 kEscaped = 1;
constexpr u32 kSameUuid = 2;
constexpr u32 kLastTag = 8;

class JournalScan {
 public:
  explicit JournalScan(const JournalSource& source) : source_(source), block_(source.block_size) {}

  JournalledBlocks run() {
    if (!read_superblock() || start_ == 0) return {};
    u32 at = start_;
    // Each block of the log is looked at once at most.
    for (u32 looked = 0; looked < end_ - first_;) {
      const u32 used = read_record(at);
      if (used == 0) break;
      looked += used;
      at = advance(at, used);
    }
    return committed();
  }

 private:
  struct Written {
    u64 block;
    u32 sequence;
    JournalledBlock content;
  };

  template <typename T>
  [[nodiscard]] T field(std::size_t offset) const {
    T value = 0;
    if (offset <= block_.size() && sizeof value <= block_.size() - offset)
      std::memcpy(&value, block_.data() + offset, sizeof value);
    return std::byteswap(value);
  }

  bool read_block(u32 index) {
    const auto offset = source_.locate(index);
    return offset && source_.read(*offset, block_) && field<u32>(0) == kJournalMagic;
  }

  [[nodiscard]] u32 type() const { return field<u32>(4); }
  [[nodiscard]] bool has(u32 feature) const { return (features_ & feature) != 0; }

  bool read_superblock() {
    if (!read_block(0) || (type() != kSuperblock1 && type() != kSuperblock2)) return false;
    if (field<u32>(12) != source_.block_size) return false;
    end_ = std::min(field<u32>(16), kMaxBlocks);
    first_ = field<u32>(20);
    sequence_ = field<u32>(24);
    start_ = field<u32>(28);
    features_ = type() == kSuperblock2 ? field<u32>(40) : 0;
    if (has(kFastCommit)) {  // whose blocks lie behind the log
      const u32 blocks = field<u32>(84);
      end_ -= std::min(end_, blocks != 0 ? blocks : 256);
    }
    return first_ > 0 && first_ < end_ && start_ < end_ && (start_ == 0 || start_ >= first_);
  }

  [[nodiscard]] u32 advance(u32 at, u32 by) const { return first_ + (at - first_ + by) % (end_ - first_); }

  /// How many blocks the record has; 0 at the end of the log.
  u32 read_record(u32 at) {
    if (!read_block(at) || field<u32>(8) != sequence_) return 0;
    switch (type()) {
      case kDescriptor: return read_descriptor(at);
      case kCommit: commit(); return 1;
      case kRevoke: read_revoke(); return 1;
      default: return 0;
    }
  }

  [[nodiscard]] u32 tag_size() const {
    if (has(kChecksums3)) return 16;
    return 8 + (has(k64Bit) ? 4 : 0) + (has(kChecksums2) ? 2 : 0);
  }

  /// The content of the blocks that a descriptor names is in the blocks behind it.
  u32 read_descriptor(u32 at) {
    u32 used = 1;
    for (std::size_t tag = kHeaderSize; tag + tag_size() <= block_.size(); ++used) {
      const u32 flags = has(kChecksums3) ? field<u32>(tag + 4) : field<u16>(tag + 6);
      const u64 high = has(k64Bit) ? field<u32>(tag + 8) : 0;
      if (used < end_ - first_)
        write(field<u32>(tag) | high << 32, (flags & kEscaped) != 0, advance(at, used));
      tag += tag_size() + ((flags & kSameUuid) != 0 ? 0 : 16);
      if ((flags & kLastTag) != 0) return used + 1;
    }
    return used;
  }

  void write(u64 block, bool escaped, u32 from) {
    if (const auto offset = source_.locate(from)) pending_.push_back({block, sequence_, {*offset, escaped}});
  }

  void read_revoke() {
    const std::size_t end = std::min<std::size_t>(field<u32>(12), block_.size());
    const std::size_t size = has(k64Bit) ? 8 : 4;
    for (std::size_t at = kHeaderSize + 4; at + size <= end; at += size)
      pending_revoked_.push_back(size == 8 ? field<u64>(at) : field<u32>(at));
  }

  void commit() {
    written_.insert(written_.end(), pending_.begin(), pending_.end());
    for (const u64 block : pending_revoked_) revoked_[block] = sequence_;
    pending_.clear();
    pending_revoked_.clear();
    ++sequence_;
  }

  /// Sequence numbers wrap.
  static bool later(u32 a, u32 b) { return static_cast<i32>(a - b) > 0; }

  /// A revoked block was freed: what the transactions up to that one have for it does not count.
  [[nodiscard]] JournalledBlocks committed() const {
    JournalledBlocks blocks;
    for (const Written& written : written_) {
      const auto revoked = revoked_.find(written.block);
      if (revoked == revoked_.end() || later(written.sequence, revoked->second))
        blocks[written.block] = written.content;
    }
    return blocks;
  }

  const JournalSource& source_;
  std::vector<u8> block_;
  u32 end_ = 0;  // the log is from first_ to here
  u32 first_ = 0;
  u32 start_ = 0;  // where its oldest record is; 0: it is empty
  u32 sequence_ = 0;
  u32 features_ = 0;
  std::vector<Written> pending_;  // of the transaction whose commit record has not come yet
  std::vector<u64> pending_revoked_;
  std::vector<Written> written_;
  std::unordered_map<u64, u32> revoked_;
};

}  // namespace

JournalledBlocks read_journal(const JournalSource& source) { return JournalScan(source).run(); }

}  // namespace vert::machine::disk_boot
