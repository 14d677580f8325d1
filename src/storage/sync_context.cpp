#include "storage/sync_context.hpp"

namespace vert::storage {

void SyncContext::run_once(Wait /*wait*/) {
  if (submitted_.empty()) return;
  IoOperation& operation = *submitted_.front();
  submitted_.pop_front();
  operation.finish(blocking_call(operation));
}

}  // namespace vert::storage
