// The qcow2 format, versions 2 and 3: clusters that are allocated when they are written, backing images,
// compressed clusters, snapshots. Extended L2 entries can only be read.
//
// Reads, and writes of clusters that are allocated, look up where they go and take no lock. All else waits
// for others that change the same clusters (Reservations), and holds the Store's lock while tables change,
// but not while the guest's data is written.
#pragma once

#include "storage/image.hpp"
#include "storage/qcow2/store.hpp"

namespace vert::storage::qcow2 {

struct OpenOptions {
  ImageOptions image = {};
  std::string snapshot = {};  // this one's content instead of the disk's, read-only
  bool repair = false;        // opens what is corrupt, too; only for a check
};

class Qcow2Image final : public Image {
 public:
  [[nodiscard]] static Task<Result<std::unique_ptr<Qcow2Image>>> open(IoContext& context,
                                                                      std::unique_ptr<ImageFile> file,
                                                                      OpenOptions options);

  [[nodiscard]] Format format() const override { return Format::kQcow2; }
  [[nodiscard]] u64 size() const override { return size_; }
  [[nodiscard]] bool read_only() const override { return read_only_; }

  [[nodiscard]] Task<Status> read(u64 offset, Buffers buffers) override;
  [[nodiscard]] Task<Status> write(u64 offset, Buffers buffers) override;
  [[nodiscard]] Task<Status> write_zeroes(u64 offset, u64 length, bool unmap) override;
  [[nodiscard]] Task<Status> discard(u64 offset, u64 length) override;
  [[nodiscard]] Task<Status> flush() override;
  [[nodiscard]] Task<Status> resize(u64 size) override;
  [[nodiscard]] Task<Status> close() override;
  [[nodiscard]] Task<Result<Extent>> extent(u64 offset, u64 length) override;

  /// A whole cluster, or the disk's last bytes, compressed if that makes it smaller.
  [[nodiscard]] Task<Status> write_compressed(u64 offset, std::vector<u8> bytes);
  /// Space for the whole disk, without data.
  [[nodiscard]] Task<Status> preallocate();

  // For tools that work on the image as a whole, while there are no requests.
  [[nodiscard]] Store& store() { return store_; }
  [[nodiscard]] const Store& store() const { return store_; }
  [[nodiscard]] const Image* backing() const { return backing_.get(); }
  /// After the L1 table has changed.
  void set_size(u64 size) { size_ = size; }

 private:
  enum class Change : u8 { kZero, kZeroAndUnmap, kDiscard, kUnmap };
  struct Place {
    Refcounts::Run run;
    bool is_new = true;
  };

  Qcow2Image(std::unique_ptr<ImageFile> file, const Header& header)
      : store_(std::move(file), header), size_(header.size) {}
  [[nodiscard]] Task<Status> open_snapshot(std::string which);
  [[nodiscard]] Task<Status> prepare_writing(bool repair);

  [[nodiscard]] const Geometry& geometry() const { return store_.geometry(); }
  [[nodiscard]] Status check_writable() const;
  /// A corrupt image's error becomes the guest's EIO, and the image's mark.
  [[nodiscard]] Task<Status> settle_failure(Status status);
  [[nodiscard]] Task<Status> finish_change(Status status);

  [[nodiscard]] Task<Status> read_range(u64 guest, Buffers buffers);
  [[nodiscard]] Task<Status> read_run(Run run, u64 guest, std::vector<iovec> buffers);
  [[nodiscard]] Task<Status> read_backing(u64 guest, std::vector<iovec> buffers);
  [[nodiscard]] Task<Status> read_compressed(u64 entry, u64 in_cluster, std::vector<iovec> buffers);
  /// How much of a range the backing image has.
  [[nodiscard]] u64 backed(u64 guest, u64 length) const;
  [[nodiscard]] bool reads_as_zeroes(const Run& run, u64 guest) const;

  [[nodiscard]] bool is_in_place(const Run& run) const { return run.kind == Kind::kData && run.copied; }
  [[nodiscard]] Status check_place(u64 host, u64 length) const;
  [[nodiscard]] Task<Status> write_range(u64 guest, Buffers buffers);
  [[nodiscard]] Task<Status> write_in_place(u64 host, std::vector<iovec> buffers);
  [[nodiscard]] Task<Result<u64>> write_allocating(u64 guest, std::vector<iovec> buffers);
  [[nodiscard]] Task<Result<Place>> find_place(Run run, u64 guest, u64 length);
  [[nodiscard]] Task<Status> write_clusters(Place place, Run old, u64 guest, std::vector<iovec> buffers);
  [[nodiscard]] Task<Status> link(Place place, u64 guest);
  [[nodiscard]] Task<Status> give_back(Place place);

  [[nodiscard]] Task<Status> zero_range(u64 guest, u64 length, bool unmap);
  [[nodiscard]] Task<Status> zero_bytes(u64 guest, u64 length);
  [[nodiscard]] Task<Status> change_clusters(u64 guest, u64 length, Change change);
  [[nodiscard]] Task<Status> change_piece(u64 guest, u64 length, Change change);
  [[nodiscard]] u64 changed_entry(u64 entry, Change change, bool is_backed) const;

  [[nodiscard]] Task<Result<CompressedPlace>> place_compressed(u64 guest, u64 length);
  [[nodiscard]] Task<Status> link_compressed(u64 guest, CompressedPlace place);

  [[nodiscard]] Task<Status> resize_alone(u64 size);
  [[nodiscard]] Task<Status> grow_l1(u64 entries);
  [[nodiscard]] Task<Status> cut_file();

  Store store_;
  std::unique_ptr<Image> backing_;
  Reservations reservations_;
  u64 size_ = 0;
  bool read_only_ = true;
  struct Decompressed {
    u64 entry = 0;
    u64 frees = 0;
    std::vector<u8> bytes;
  } decompressed_;
};

}  // namespace vert::storage::qcow2
