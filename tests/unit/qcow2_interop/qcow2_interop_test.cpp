// vert and QEMU's tools take turns on the same images: random sequences of writes, discards, zeroes,
// snapshots, backing files and resizes. Both must read what was written, and find nothing wrong.
//
// Deterministic: sequence n is always the same. A few; with VERT_TEST_LONG 1,000.
#include <gtest/gtest.h>

#include <map>

#include "support/image_rig.hpp"
#include "support/qemu_tools.hpp"
#include "support/random.hpp"

namespace vert::storage::qcow2 {
namespace {

using test::Random;

class Sequence {
 public:
  explicit Sequence(u64 seed) : random_(seed) {
    auto made = IoContext::create(IoContext::Kind::kPool);
    EXPECT_TRUE(made);
    context_ = std::move(*made);
  }

  void run() {
    ASSERT_NO_FATAL_FAILURE(create());
    for (int session = 0; session < 4; ++session) {
      SCOPED_TRACE("session " + std::to_string(session));
      if (random_.below(2) == 0) {
        ASSERT_NO_FATAL_FAILURE(use_vert());
      } else {
        ASSERT_NO_FATAL_FAILURE(use_qemu());
      }
      ASSERT_NO_FATAL_FAILURE(compare());
    }
  }

 private:
  void qemu(const std::string& command) {
    const auto result = test::run_tool(command);
    ASSERT_EQ(result.status, 0) << command << "\n" << result.output;
  }

  void create() {
    static constexpr std::array<u64, 6> kClusterSizes = {512, 1024, 4096, 65536, 65536, 1 << 20};
    cluster_ = random_.pick(kClusterSizes);
    version_ = random_.below(4) == 0 ? 2 : 3;
    const unsigned refcount_bits = version_ == 2 ? 16 : 1U << (1 + random_.below(6));
    const bool lazy = version_ == 3 && random_.below(6) == 0;
    const bool zstd = version_ == 3 && random_.below(3) == 0;
    counts_ = (u64{1} << std::min(refcount_bits, 10U)) - 1;
    model_.resize((1 + random_.below(4096)) * 512);
    is_backed_ = random_.below(2) == 0;
    NewImage made;
    made.size = model_.size();
    if (is_backed_) {
      ASSERT_NO_FATAL_FAILURE(create_backing(made));
    }
    if (random_.below(2) == 0) {
      made.qcow2.version = version_;
      made.qcow2.cluster_size = cluster_;
      made.qcow2.refcount_bits = refcount_bits;
      made.qcow2.lazy_refcounts = lazy;
      made.qcow2.compression = zstd ? CompressionType::kZstd : CompressionType::kZlib;
      made.preallocate = !is_backed_ && random_.below(4) == 0;
      const auto status = context_->complete(create_image(*context_, path_, made));
      ASSERT_TRUE(status) << status.error().message;
      return;
    }
    qemu(fmt::format("qemu-img create -q -f qcow2 -o cluster_size={},compat={},refcount_bits={}{}{}{} {} {}",
                     cluster_, version_ == 2 ? "0.10" : "1.1", refcount_bits,
                     lazy ? ",lazy_refcounts=on" : "", zstd ? ",compression_type=zstd" : "",
                     is_backed_ ? fmt::format(",backing_file={},backing_fmt={}", *made.qcow2.backing_file,
                                              *made.qcow2.backing_format)
                                : "",
                     path_, model_.size()));
  }

  void create_backing(NewImage& overlay) {
    std::vector<u8> content((1 + random_.below(4096)) * 512);
    for (u64 at = 0; at < content.size(); at += 4096)
      std::fill_n(content.begin() + static_cast<std::ptrdiff_t>(at), std::min<u64>(4096, content.size() - at),
                  static_cast<u8>(random_.below(4) == 0 ? 0 : random_.next()));
    test::write_file(folder_ / "base.raw", content);
    backing_size_ = content.size();
    overlay.qcow2.backing_file = "base.raw";
    overlay.qcow2.backing_format = "raw";
    if (random_.below(2) == 0) {
      qemu("qemu-img convert -f raw -O qcow2 " + (folder_ / "base.raw") + " " + (folder_ / "base.qcow2"));
      overlay.qcow2.backing_file = "base.qcow2";
      overlay.qcow2.backing_format = "qcow2";
    }
    std::copy_n(content.begin(), std::min(content.size(), model_.size()), model_.begin());
  }

  struct Range {
    u64 offset = 0;
    u64 length = 0;
  };
  Range some_range() {
    const u64 sectors = model_.size() / 512;
    const u64 first = random_.below(sectors);
    const u64 most = random_.below(3) == 0 ? sectors : 64;
    return {first * 512, (1 + random_.below(std::min(sectors - first, most))) * 512};
  }
  /// Whole clusters; empty if the disk is smaller.
  Range some_clusters() {
    const u64 clusters = model_.size() / cluster_;
    if (clusters == 0) return {};
    const u64 first = random_.below(clusters);
    return {first * cluster_, (1 + random_.below(std::min<u64>(clusters - first, 16))) * cluster_};
  }
  void fill(Range range, u8 value) {
    std::fill_n(model_.begin() + static_cast<std::ptrdiff_t>(range.offset), range.length, value);
  }
  /// Version 2 cannot hide what a backing image has.
  [[nodiscard]] bool can_discard() const { return version_ == 3 || !is_backed_; }

  void use_vert() {
    auto image = test::open_qcow2(*context_, path_);
    ASSERT_TRUE(image) << image.error().message;
    ASSERT_TRUE(image->content() == model_) << "vert reads something else";
    const u64 steps = 1 + random_.below(12);
    for (u64 i = 0; i < steps; ++i) {
      SCOPED_TRACE("vert's step " + std::to_string(i));
      ASSERT_NO_FATAL_FAILURE(change_by_vert(*image));
    }
    const auto closed = image->close();
    ASSERT_TRUE(closed) << closed.error().message;
  }

  void change_by_vert(test::OpenImage& image) {
    const auto value = static_cast<u8>(1 + random_.below(255));
    const Range range = some_range();
    const Range clusters = some_clusters();
    switch (random_.below(9)) {
      case 0:
        ASSERT_TRUE(image.write_zeroes(range.offset, range.length, random_.below(2) == 0));
        return fill(range, 0);
      case 1:
        if (!can_discard() || clusters.length == 0) return;
        ASSERT_TRUE(image.discard(clusters.offset, clusters.length));
        return fill(clusters, 0);
      case 2: {
        if (clusters.length == 0) return;
        const Range one{clusters.offset, cluster_};
        ASSERT_TRUE(
            context_->complete(image->write_compressed(one.offset, std::vector<u8>(cluster_, value))));
        return fill(one, value);
      }
      case 3: ASSERT_TRUE(image.flush()); return;
      case 4:
        return snapshot([&](const std::string& name) { return image.snapshot(name).has_value(); },
                        [&](const std::string& name) { return image.apply(name).has_value(); },
                        [&](const std::string& name) { return image.remove(name).has_value(); });
      case 5: return resize(512, [&](u64 size) { return image.resize(size).has_value(); });
      default:
        fill(range, value);
        const auto status = image.write(range.offset, std::span(model_).subspan(range.offset, range.length));
        ASSERT_TRUE(status) << status.error().message;
    }
  }

  void use_qemu() {
    const u64 steps = 1 + random_.below(3);
    for (u64 i = 0; i < steps; ++i) {
      SCOPED_TRACE("QEMU's step " + std::to_string(i));
      switch (random_.below(5)) {
        case 0:
          ASSERT_NO_FATAL_FAILURE(snapshot(
              [&](const std::string& name) {
                // Where a count has no room, QEMU leaves the image half changed.
                return counts_ >= 255 && qemu_snapshot("-c", name);
              },
              [&](const std::string& name) { return qemu_snapshot("-a", name); },
              [&](const std::string& name) { return qemu_snapshot("-d", name); }));
          break;
        case 1:
          // QEMU does not grow what may have to hide a larger backing image without zero clusters.
          if (version_ == 2 && is_backed_) break;
          // Within a cluster, what it has cut off comes back when it grows the disk again.
          ASSERT_NO_FATAL_FAILURE(resize(cluster_, [&](u64 size) {
            return test::run_tool(fmt::format("qemu-img resize -q --shrink -f qcow2 {} {}", path_, size))
                       .status == 0;
          }));
          break;
        default: ASSERT_NO_FATAL_FAILURE(write_by_qemu());
      }
    }
  }

  bool qemu_snapshot(const char* what, const std::string& name) {
    return test::run_tool(fmt::format("qemu-img snapshot {} {} {}", what, name, path_)).status == 0;
  }

  void write_by_qemu() {
    std::string commands;
    const u64 count = 1 + random_.below(8);
    for (u64 i = 0; i < count; ++i) {
      const u64 value = 1 + random_.below(255);
      const Range range = some_range();
      const Range clusters = some_clusters();
      const Range one{clusters.offset, std::min(cluster_, clusters.length)};
      switch (random_.below(6)) {
        case 0:
          commands += fmt::format(" -c 'write -z {} {} {}'", random_.below(2) == 0 ? "-u" : "", range.offset,
                                  range.length);
          fill(range, 0);
          break;
        case 1:
          if (!can_discard() || clusters.length == 0) break;
          commands += fmt::format(" -c 'discard {} {}'", clusters.offset, clusters.length);
          fill(clusters, 0);
          break;
        case 2:
          if (!can_discard() || one.length == 0) break;
          // QEMU writes compressed data only to clusters without a place; and what the same process writes
          // after that may get a place that it takes for the next compressed cluster, too.
          commands += fmt::format(" -c 'discard {1} {2}' -c 'write -c -P {0} {1} {2}'", value, one.offset,
                                  one.length);
          fill(one, static_cast<u8>(value));
          i = count;
          break;
        default:
          commands += fmt::format(" -c 'write -P {} {} {}'", value, range.offset, range.length);
          fill(range, static_cast<u8>(value));
      }
    }
    qemu("qemu-io -d unmap -f qcow2" + commands + " " + path_);
  }

  template <typename Create, typename Apply, typename Remove>
  void snapshot(Create create, Apply apply, Remove remove) {
    const u64 choice = random_.below(4);
    if (snapshots_.empty() || (choice < 2 && snapshots_.size() + 2 < counts_)) {
      if (counts_ < 3) return;  // no room for a second reference besides a compressed cluster's
      const std::string name = "s" + std::to_string(++named_);
      // Compressed clusters that share one may need more than the counts have room for.
      if (create(name)) snapshots_[name] = model_;
      return;
    }
    auto chosen = snapshots_.begin();
    std::advance(chosen, random_.below(snapshots_.size()));
    if (choice == 2) {
      ASSERT_TRUE(remove(chosen->first));
      snapshots_.erase(chosen);
    } else if (apply(chosen->first)) {
      model_ = chosen->second;
    }
  }

  /// To a multiple of `step`.
  template <typename Resize>
  void resize(u64 step, Resize resize) {
    const u64 size = (1 + random_.below(std::max<u64>(6000 * 512 / step, 1))) * step;
    if (!snapshots_.empty() && (version_ == 2 || size < model_.size())) return;
    ASSERT_TRUE(resize(size)) << model_.size() << " to " << size;
    model_.resize(size);
  }

  /// Both tools find the image in order, and read the same.
  void compare() {
    ASSERT_EQ(test::problems(*context_, path_), "");
    ASSERT_EQ(test::qemu_problems(path_), "");
    const auto image =
        test::open_qcow2(*context_, path_, {.image = {.read_only = true}, .snapshot = {}, .repair = false});
    ASSERT_TRUE(image) << image.error().message;
    ASSERT_TRUE(image->content() == model_) << "vert reads something else";
    qemu(fmt::format("qemu-img convert -f qcow2 -O raw {} {}", path_, folder_ / "out.raw"));
    ASSERT_TRUE(test::file_bytes(folder_ / "out.raw") == model_) << "QEMU reads something else";
    for (const auto& [name, content] : snapshots_) {
      const auto old = test::open_qcow2(*context_, path_,
                                        {.image = {.read_only = true}, .snapshot = name, .repair = false});
      ASSERT_TRUE(old) << old.error().message;
      ASSERT_TRUE(old->content() == content) << "snapshot " << name;
    }
  }

  Random random_;
  std::unique_ptr<IoContext> context_;
  test::TemporaryFolder folder_;
  const std::string path_ = folder_ / "disk.qcow2";
  u64 cluster_ = 65536;
  u32 version_ = 3;
  u64 counts_ = 0;  // the largest refcount
  bool is_backed_ = false;
  u64 backing_size_ = 0;
  std::vector<u8> model_;
  std::map<std::string, std::vector<u8>> snapshots_;
  int named_ = 0;
};

TEST(Qcow2Interop, VertAndQemuTakeTurnsOnAnImage) {
  if (!test::have_qemu_tools()) GTEST_SKIP() << "qemu-img and qemu-io are not installed";
  const char* const first = std::getenv("VERT_TEST_FIRST");
  const u64 start = first != nullptr ? std::strtoull(first, nullptr, 10) : 0;
  const u64 count = std::getenv("VERT_TEST_LONG") != nullptr ? 1000 : 8;
  for (u64 seed = start; seed < start + count; ++seed) {
    SCOPED_TRACE("sequence " + std::to_string(seed));
    ASSERT_NO_FATAL_FAILURE(Sequence(seed).run());
  }
}

}  // namespace
}  // namespace vert::storage::qcow2
