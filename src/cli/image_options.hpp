// What the commands of `vert image` share: formats, sizes, -o, and opening images. Main thread.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "base/error.hpp"
#include "cli/progress_line.hpp"
#include "storage/new_image.hpp"

namespace vert::cli {

/// "raw" or "qcow2".
[[nodiscard]] Result<storage::Format> parse_format(const std::string& name);
[[nodiscard]] const char* format_name(storage::Format format);
/// As named, or by the file's name: raw for *.raw and *.img, else qcow2.
[[nodiscard]] Result<storage::Format> new_format(const std::string& name, const std::string& path);
/// A new size as for `qemu-img resize`: one, or what is more (+) or less (-) than `now`. In whole sectors.
[[nodiscard]] Result<u64> parse_new_size(const std::string& text, u64 now);
/// As for qemu-img: "10G", "1.5T", "512k", or a number of bytes.
[[nodiscard]] Result<u64> parse_image_size(const std::string& text);

/// What -o has: "cluster_size=2M,lazy_refcounts=on"; a comma in a value is written twice. `size` stands for
/// the SIZE that may follow the file's name.
struct CreationOptions {
  storage::NewImage image;
  std::optional<u64> size;
};
[[nodiscard]] Result<CreationOptions> parse_creation_options(const std::string& text, storage::Format format);
inline constexpr const char* kCreationHelp = R"(Options of -o for qcow2, as qemu-img spells them:
  cluster_size=64K           512 to 2M
  preallocation=off          off, or metadata: faster first writes, in a sparse file
  backing_file=F             the same as -b
  backing_fmt=FMT            the same as -F
  compat=1.1                 0.10 for programs before 2012
  compression_type=zlib      zlib or zstd, for 'vert image convert -c'
  lazy_refcounts=off         on: faster writes, a repair after a crash
  refcount_bits=16           1 to 64)";

/// A backing file: given as on the command line, kept as it stands in the image, where it starts at the
/// image's folder.
struct Backing {
  std::string name;
  std::string format;  // "": found out
};
/// Opens it, so that it is known to be there, sets the names in `image`, and gives it.
[[nodiscard]] Result<std::unique_ptr<storage::Image>> open_backing(storage::IoContext& context,
                                                                   const Backing& backing,
                                                                   const std::string& overlay,
                                                                   storage::NewImage& image);

/// Nothing is overwritten by accident.
[[nodiscard]] Status check_new(const std::string& path, bool force);
/// A qcow2 image; what other images lack says `what`, as in "snapshots".
[[nodiscard]] Result<std::unique_ptr<storage::qcow2::Qcow2Image>> open_qcow2(
    storage::IoContext& context, const std::string& path, const storage::qcow2::OpenOptions& options,
    const std::string& format, const char* what);

/// Draws a bar; false once the user pressed Ctrl-C.
class ImageProgress {
 public:
  ImageProgress();
  ~ImageProgress();
  ImageProgress(const ImageProgress&) = delete;
  ImageProgress& operator=(const ImageProgress&) = delete;
  [[nodiscard]] bool show(u64 done, u64 total);

 private:
  ProgressLine line_;
};

}  // namespace vert::cli
