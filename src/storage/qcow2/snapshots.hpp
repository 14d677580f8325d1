// Internal snapshots of a qcow2 image: taken, gone back to, deleted. With no requests under way.
//
// While counts and tables change, a version 3 image is marked as dirty, so a crash in between is mended when
// it is opened next.
#pragma once

#include "storage/qcow2/qcow2_image.hpp"

namespace vert::storage::qcow2 {

/// Error: there is one of that name, or a cluster's refcount has no room for one more.
[[nodiscard]] Task<Status> create_snapshot(Qcow2Image& image, std::string name);
/// By name or ID. The disk has the snapshot's content and size then; what it had is gone.
[[nodiscard]] Task<Status> apply_snapshot(Qcow2Image& image, std::string which);
[[nodiscard]] Task<Status> delete_snapshot(Qcow2Image& image, std::string which);

}  // namespace vert::storage::qcow2
