#include "machine/disk_boot/volumes.hpp"

#include <algorithm>

#include "machine/disk_boot/config_text.hpp"

namespace vert::machine::disk_boot {

namespace {

Result<Volume> open_volume(BlockReader& disk, std::optional<Partition> partition) {
  Volume volume;
  volume.partition = std::move(partition);
  const u64 offset = volume.partition ? volume.partition->offset : 0;
  const u64 size = volume.partition ? volume.partition->size : disk.size();
  VERT_ASSIGN(volume.guess, guess_file_system(disk, offset, size));
  if (volume.guess.kind != FileSystemKind::kExt) return volume;
  auto files = ExtFileSystem::open(disk, offset, size);
  if (files)
    volume.files = std::move(*files);
  else
    volume.fault = files.error().message;
  return volume;
}

/// The order in which to look for a kernel.
int rank(const Volume& volume) {
  switch (volume.role()) {
    case PartitionRole::kBoot: return 0;
    case PartitionRole::kRoot: return 1;
    default: return 2;
  }
}

/// A list for one line: what is too much for it is counted.
class Parts {
 public:
  void add(const std::string& part) {
    constexpr std::size_t kMostShown = 4;
    if (++count_ <= kMostShown) text_ += (text_.empty() ? "" : "; ") + part;
    if (count_ > kMostShown) more_ = fmt::format("; and {} more", count_ - kMostShown);
  }
  [[nodiscard]] bool empty() const { return count_ == 0; }
  [[nodiscard]] Error error() const { return Error{text_ + more_}; }

 private:
  std::size_t count_ = 0;
  std::string text_;
  std::string more_;
};

std::string list_places(const std::vector<const Volume*>& volumes) {
  std::string list = volumes.front()->place();
  if (volumes.size() > 1) list += fmt::format(" and {} more", volumes.size() - 1);
  return list;
}

}  // namespace

std::string Volume::place() const {
  return partition ? fmt::format("partition {}", partition->number) : "the disk";
}

bool Volume::is_root() const {
  return files != nullptr && (files->find("/etc/fstab") || files->find("/etc/os-release") ||
                              files->find("/usr/lib/os-release") || files->find("/sbin/init"));
}

Result<Volumes> Volumes::open(BlockReader& disk) {
  VERT_ASSIGN(const PartitionTable table, read_partition_table(disk));
  Volumes opened;
  for (const Partition& partition : table.partitions) {
    VERT_ASSIGN(Volume volume, open_volume(disk, partition));
    opened.volumes_.push_back(std::move(volume));
  }
  const auto known = [](const Volume& volume) { return volume.guess.kind != FileSystemKind::kUnknown; };
  if (std::ranges::any_of(opened.volumes_, known)) return opened;
  // Signs of a table may be left from earlier, or belong to a boot sector.
  VERT_ASSIGN(Volume bare, open_volume(disk, std::nullopt));
  if (known(bare)) {
    opened.volumes_.clear();
    opened.volumes_.push_back(std::move(bare));
    return opened;
  }
  if (!table.found) return make_error("holds no partition table and no ext4");
  return make_error("none of its {} partitions holds a file system that vert knows", table.partitions.size());
}

std::vector<Volume*> Volumes::readable() {
  std::vector<Volume*> found;
  for (Volume& volume : volumes_)
    if (volume.files != nullptr) found.push_back(&volume);
  std::ranges::stable_sort(found, {}, [](const Volume* volume) { return rank(*volume); });
  return found;
}

Volume* Volumes::by_uuid(const std::string& uuid) {
  for (Volume& volume : volumes_)
    if (volume.files != nullptr && volume.files->uuid() == lower_case(uuid)) return &volume;
  return nullptr;
}

Volume* Volumes::by_label(const std::string& label) {
  for (Volume& volume : volumes_)
    if (volume.files != nullptr && volume.files->label() == label) return &volume;
  return nullptr;
}

Volume* Volumes::by_number(unsigned number) {
  for (Volume& volume : volumes_)
    if (volume.files != nullptr && volume.partition && volume.partition->number == number) return &volume;
  return nullptr;
}

const Volume* Volumes::root(const Volume& kernel) const {
  if (kernel.is_root()) return &kernel;
  for (const Volume& volume : volumes_)
    if (volume.role() == PartitionRole::kRoot) return &volume;
  for (const Volume& volume : volumes_)
    if (volume.is_root()) return &volume;
  for (const Volume& volume : volumes_)
    if (&volume != &kernel && volume.files == nullptr && volume.guess.mountable) return &volume;
  return nullptr;
}

Error Volumes::describe_failure() const {
  Parts parts;
  std::vector<const Volume*> searched;
  for (const Volume& volume : volumes_) {
    if (volume.files != nullptr) {
      searched.push_back(&volume);
      if (!volume.files->damage().empty())
        parts.add(fmt::format("on {}, {}", volume.place(), volume.files->damage()));
    } else if (!volume.fault.empty()) {
      parts.add(fmt::format("on {}, {}", volume.place(), volume.fault));
    } else if (volume.guess.kind == FileSystemKind::kOther && volume.guess.is_linux) {
      parts.add(fmt::format("{} is {}, which vert cannot read", volume.place(), volume.guess.name));
    }
  }
  if (!searched.empty()) parts.add(fmt::format("no kernel is in the ext4 of {}", list_places(searched)));
  if (!parts.empty()) return parts.error();
  for (const Volume& volume : volumes_)
    if (volume.guess.kind == FileSystemKind::kOther)
      parts.add(
          fmt::format("{} is {}, where vert does not look for a kernel", volume.place(), volume.guess.name));
  return parts.error();
}

}  // namespace vert::machine::disk_boot
