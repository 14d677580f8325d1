// Guests of a few bytes, as multiboot kernels.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "machine/machine.hpp"
#include "unit/machine/boot_images.hpp"

namespace vert::machine {

using Code = std::vector<u8>;

/// A kernel file with this 32-bit code at its entry, gone when the test ends.
class KernelFile {
 public:
  explicit KernelFile(const Code& code) {
    test::Image image = test::make_flat_multiboot();
    std::ranges::copy(code, image.begin() + kEntry);
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(image.data()), static_cast<std::streamsize>(image.size()));
  }
  ~KernelFile() { std::filesystem::remove(path_); }
  KernelFile(const KernelFile&) = delete;
  KernelFile& operator=(const KernelFile&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

  static constexpr i64 kEntry = 0x80;

 private:
  std::string path_ = testing::TempDir() + fmt::format("vert-kernel-{}", ::getpid());
};

inline MachineConfig config_for(const KernelFile& kernel) {
  MachineConfig config;
  config.memory_bytes = u64{32} << 20;
  config.engine = "interp";
  config.kernel = kernel.path();
  return config;
}

// mov dx, port; mov al, value; out dx, al; hlt
inline Code out_byte(u16 port, u8 value) {
  return {0x66, 0xBA, static_cast<u8>(port), static_cast<u8>(port >> 8), 0xB0, value, 0xEE, 0xF4};
}

}  // namespace vert::machine
