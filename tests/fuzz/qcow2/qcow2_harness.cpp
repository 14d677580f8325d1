#include "fuzz/qcow2/qcow2_harness.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "base/fd.hpp"
#include "storage/qcow2/check.hpp"
#include "storage/qcow2/snapshots.hpp"
#include "support/scripted_context.hpp"

namespace vert::storage::qcow2 {
namespace {

/// What an image may take on the host's disk beyond what it had, whatever its tables say.
constexpr u64 kMostGrowth = 64 << 20;

/// A message is one line for people.
template <typename T>
bool settle(const std::expected<T, Error>& result) {
  if (result.has_value()) return true;
  VERT_CHECK(!result.error().message.empty() && result.error().message.size() < 3000);
  return false;
}

class Exercise {
 public:
  explicit Exercise(std::span<const u8> bytes) : file_(::memfd_create("image", MFD_CLOEXEC)) {
    VERT_CHECK(file_.valid());
    VERT_CHECK(::pwrite(file_.get(), bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
    path_ = "/proc/self/fd/" + std::to_string(file_.get());
  }

  bool run() {
    const u64 before = space();
    const bool is_readable = read_all();
    write_all();
    repair();
    VERT_CHECK(space() < before + kMostGrowth);
    return is_readable;
  }

 private:
  [[nodiscard]] u64 space() const {
    struct stat info = {};
    VERT_CHECK(::fstat(file_.get(), &info) == 0);
    return static_cast<u64>(info.st_blocks) * 512;
  }

  Result<std::unique_ptr<Qcow2Image>> open(bool read_only, bool repair, const std::string& snapshot = "") {
    FileOptions file_options;
    file_options.read_only = read_only;
    VERT_ASSIGN(auto file, ImageFile::open(context_, path_, file_options));
    OpenOptions options;
    options.image.read_only = read_only;
    options.repair = repair;
    options.snapshot = snapshot;
    return context_.complete(Qcow2Image::open(context_, std::move(file), options));
  }

  /// The start, the end and some places between.
  template <typename Use>
  void at_some_places(u64 size, Use use) {
    constexpr u64 kPlaces = 7;
    for (u64 i = 0; i <= kPlaces; ++i) {
      const u64 offset = size / kPlaces * i / 512 * 512;
      const u64 length = std::min<u64>(size - std::min(offset, size), 24 << 10);
      if (length != 0) use(offset, length);
    }
  }

  void read_places(Qcow2Image& image) {
    std::vector<u8> bytes(24 << 10);
    at_some_places(image.size(), [&](u64 offset, u64 length) {
      const iovec piece = buffer_of(std::span(bytes).first(length));
      settle(context_.complete(image.read(offset, Buffers(&piece, 1))));
      const auto extent = context_.complete(image.extent(offset, length));
      if (settle(extent)) VERT_CHECK(extent->length != 0 && extent->length <= length);
    });
  }

  bool read_all() {
    const auto image = open(true, true);
    if (!settle(image)) return false;
    read_places(**image);
    settle(context_.complete(check(**image, Repair::kNone)));
    if (!(*image)->store().snapshots.empty()) {
      const auto old = open(true, true, (*image)->store().snapshots[0].name);
      if (settle(old)) read_places(**old);
    }
    return true;
  }

  void write_all() {
    const auto opened = open(false, false);
    if (!settle(opened)) return;
    Qcow2Image& image = **opened;
    const std::vector<u8> bytes(24 << 10, 0xA5);
    at_some_places(image.size(), [&](u64 offset, u64 length) {
      const iovec piece = buffer_of(std::span(bytes).first(length));
      settle(context_.complete(image.write(offset, Buffers(&piece, 1))));
    });
    settle(context_.complete(create_snapshot(image, "one more")));
    at_some_places(image.size(), [&](u64 offset, u64 length) {
      settle(context_.complete(image.write_zeroes(offset, length, offset % 1024 == 0)));
      settle(context_.complete(image.discard(offset / 2, length)));
    });
    settle(context_.complete(image.flush()));
    const u64 grown = image.size() + (1 << 20);
    if (grown < u64{1} << 34) settle(context_.complete(image.resize(grown)));
    settle(context_.complete(apply_snapshot(image, "one more")));
    settle(context_.complete(delete_snapshot(image, "one more")));
    settle(context_.complete(image.close()));
  }

  void repair() {
    const auto image = open(false, true);
    if (!settle(image)) return;
    const auto result = context_.complete(check(**image, Repair::kAll));
    if (settle(result)) VERT_CHECK(result->corruptions_fixed <= result->corruptions);
    settle(context_.complete((*image)->close()));
  }

  test::ScriptedContext context_{1};
  base::Fd file_;
  std::string path_;
};

}  // namespace

bool exercise_image(std::span<const u8> file) { return Exercise(file).run(); }

}  // namespace vert::storage::qcow2
