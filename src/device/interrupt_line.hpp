// A device's interrupt wire, as the device sees it. Implemented by the interrupt controllers.
//
// Devices call set() with their own lock held, so that the level always follows their state: an
// implementation takes only locks further in, and never calls a device.
#pragma once

namespace vert::device {

class InterruptLine {
 public:
  virtual ~InterruptLine() = default;
  virtual void set(bool level) = 0;
};

}  // namespace vert::device
