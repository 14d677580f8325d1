#include "storage/new_image.hpp"

namespace vert::storage {
namespace {

Task<Status> create_qcow2(IoContext& context, std::string path, NewImage image) {
  image.qcow2.size = image.size;
  VERT_CO_TRY(check_options(image.qcow2));
  VERT_CO_ASSIGN(auto file, ImageFile::create(context, path));
  VERT_CO_TRY(co_await write_empty(*file, image.qcow2));
  // The backing image need not be there.
  qcow2::OpenOptions options;
  options.repair = true;
  VERT_CO_ASSIGN(const auto made, co_await qcow2::Qcow2Image::open(context, std::move(file), options));
  VERT_CO_TRY(co_await made->resize(image.size));
  if (image.preallocate) VERT_CO_TRY(co_await made->preallocate());
  co_return co_await made->close();
}

}  // namespace

Task<Status> create_image(IoContext& context, std::string path, NewImage image) {
  if (image.format == Format::kQcow2) co_return co_await create_qcow2(context, path, std::move(image));
  VERT_CO_ASSIGN(const auto file, ImageFile::create(context, path));
  VERT_CO_TRY(file->set_size(image.size));
  if (image.preallocate && image.size != 0) VERT_CO_TRY(co_await file->zero_range(0, image.size));
  co_return co_await file->flush();
}

}  // namespace vert::storage
