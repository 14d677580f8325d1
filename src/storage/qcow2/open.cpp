// Opening a qcow2 image: its header, its tables, and the images behind it.
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "storage/qcow2/check.hpp"
#include "storage/qcow2/qcow2_image.hpp"

namespace vert::storage::qcow2 {
namespace {

constexpr std::size_t kMaxChain = 200;

Task<Result<Header>> read_header(ImageFile& file) {
  VERT_CO_ASSIGN(const u64 size, file.size());
  std::vector<u8> bytes(std::min<u64>(size, kSectorSize));
  VERT_CO_TRY(co_await read_bytes(file, 0, bytes));
  const auto refused = [&](const Error& error) -> std::unexpected<Error> {
    return make_error("cannot use '{}' as qcow2: {}", file.path(), error.message);
  };
  if (bytes.size() < kHeaderSizeV2) co_return refused({"the file is cut short in its header"});
  const auto cluster_bits = parse_cluster_bits(bytes);
  if (!cluster_bits) co_return refused(cluster_bits.error());
  bytes.resize(std::min(size, u64{1} << *cluster_bits));
  VERT_CO_TRY(co_await read_bytes(file, 0, bytes));
  auto header = parse_header(bytes, size);
  if (!header) co_return refused(header.error());
  co_return header;
}

/// A backing file's name in the image, as a path. Relative names start at the image's folder.
Result<std::string> backing_path(const ImageFile& overlay, std::string name) {
  if (name.starts_with("file:")) {
    name = name.substr(5);
  } else if (const auto colon = name.find(':'); colon != std::string::npos && name.find('/') > colon) {
    return make_error("'{}' has the backing file '{}', and vert can only use files", overlay.path(),
                      printable(name));
  }
  if (name.starts_with("/")) return name;
  return (std::filesystem::path(overlay.path()).parent_path() / name).string();
}

/// Asked before the file is opened: by then, the lock that its overlay has would look like another process's.
bool is_one_of(const std::string& path, const std::vector<ImageFile::Identity>& files) {
  struct stat info = {};
  return ::stat(path.c_str(), &info) == 0 &&
         std::ranges::count(files, ImageFile::Identity{info.st_dev, info.st_ino}) != 0;
}

Task<Result<std::unique_ptr<Image>>> open_backing(IoContext& context, const ImageFile& overlay, Header header,
                                                  ImageOptions options) {
  VERT_CO_ASSIGN(const std::string path, backing_path(overlay, *header.backing_file));
  options.read_only = true;
  options.format = std::nullopt;
  if (header.backing_format) {
    const auto& name = *header.backing_format;
    if (name != "raw" && name != "qcow2" && name != "file")
      co_return make_error("'{}' has a backing file of the format '{}'; vert knows raw and qcow2",
                           overlay.path(), printable(name));
    options.format = name == "qcow2" ? Format::kQcow2 : Format::kRaw;
  }
  options.overlays.push_back(overlay.identity());
  if (is_one_of(path, options.overlays))
    co_return make_error(
        "the backing files loop: '{}' is behind itself; give one of them another with "
        "'qemu-img rebase -u'",
        path);
  if (options.overlays.size() > kMaxChain)
    co_return make_error("'{}' has more than {} backing images behind each other", overlay.path(), kMaxChain);
  auto image = co_await open_image(context, path, options);
  if (image) co_return image;
  const bool gone = image.error().system_error == ENOENT;
  co_return failure(image.error().system_error, "{} (the backing file of '{}'{})", image.error().message,
                    overlay.path(), gone ? "; 'qemu-img rebase -u -b FILE' tells it a new place" : "");
}

}  // namespace

Task<Result<std::unique_ptr<Qcow2Image>>> Qcow2Image::open(IoContext& context,
                                                           std::unique_ptr<ImageFile> file,
                                                           OpenOptions options) {
  VERT_CO_ASSIGN(const Header header, co_await read_header(*file));
  // A repair takes what is missing for zeroes.
  if (!options.repair) file->expect_whole_units(header.geometry.cluster_size());
  std::unique_ptr<Qcow2Image> image(new Qcow2Image(std::move(file), header));
  VERT_CO_TRY(co_await image->store_.load());
  if (!options.snapshot.empty()) VERT_CO_TRY(co_await image->open_snapshot(options.snapshot));
  if (!options.image.read_only && options.snapshot.empty())
    VERT_CO_TRY(co_await image->prepare_writing(options.repair));
  // A repair has nothing to do with what lies behind.
  if (header.backing_file && !options.repair) {
    VERT_CO_ASSIGN(image->backing_,
                   co_await open_backing(context, *image->store_.file, header, options.image));
  }
  co_return image;
}

Task<Status> Qcow2Image::open_snapshot(std::string which) {
  const Snapshot* const snapshot = find_snapshot(store_.snapshots, which);
  if (snapshot == nullptr)
    co_return make_error("'{}' has no snapshot '{}'; see 'vert image snapshot {}'", store_.file->path(),
                         printable(which), store_.file->path());
  VERT_CO_TRY(co_await store_.mapping.load(snapshot->l1_offset, snapshot->l1_entries));
  size_ = snapshot->disk_size / kSectorSize * kSectorSize;
  co_return Status{};
}

Task<Status> Qcow2Image::prepare_writing(bool repair) {
  const std::string& path = store_.file->path();
  if (geometry().extended_l2)
    co_return make_error("'{}' has extended L2 entries, which vert can only read; open it with readonly",
                         path);
  const u64 features = store_.header.incompatible;
  if (!repair && (features & kIncompatibleCorrupt) != 0)
    co_return make_error("'{}' is marked as corrupt; try 'vert image check --repair all {}'", path, path);
  auto mapped = co_await store_.map_metadata();
  if (!mapped && !repair)
    co_return make_error("{}; it can only be read, see 'vert image check'", mapped.error().message);
  read_only_ = false;
  if (store_.header.autoclear != 0) {
    Header changed = store_.header;
    changed.autoclear = 0;
    VERT_CO_TRY(co_await store_.update_header(std::move(changed)));
  }
  // A crash with lazy refcounts: the counts on the disk are too low.
  if (!repair && (features & kIncompatibleDirty) != 0) VERT_CO_TRY(co_await repair_refcounts(*this));
  co_return Status{};
}

}  // namespace vert::storage::qcow2
