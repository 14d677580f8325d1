// What --initrd names: one RAM disk, or a multiboot kernel's modules.
#include "machine/boot_files.hpp"
#include "unit/machine_run/kernel_file.hpp"

namespace vert::machine {
namespace {

/// A file of that content, gone when the test ends.
class ModuleFile {
 public:
  ModuleFile(const std::string& name, const std::string& content)
      : path_(testing::TempDir() + fmt::format("vert-{}-{}", ::getpid(), name)) {
    std::ofstream(path_) << content;
  }
  ~ModuleFile() { std::filesystem::remove(path_); }
  ModuleFile(const ModuleFile&) = delete;
  ModuleFile& operator=(const ModuleFile&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string text_of(const BootModule& module) { return {module.bytes.begin(), module.bytes.end()}; }

TEST(Modules, AreAListWithArguments) {
  const KernelFile kernel({0xF4});
  const ModuleFile first("a", "first");
  const ModuleFile second("b,c", "second");
  MachineConfig config = config_for(kernel);
  std::string escaped = second.path();
  escaped.insert(escaped.find(','), ",");
  config.initrd = first.path() + " one,,two three," + escaped;
  const auto files = read_boot_files(config, false);
  ASSERT_TRUE(files) << files.error().message;
  const auto& modules = (*files)->source.modules;
  ASSERT_EQ(modules.size(), 2U);
  EXPECT_EQ(modules[0].command_line, first.path() + " one,two three");
  EXPECT_EQ(text_of(modules[0]), "first");
  EXPECT_EQ(modules[1].command_line, second.path());
  EXPECT_EQ(text_of(modules[1]), "second");
}

TEST(Modules, WithoutANameAreRefused) {
  const KernelFile kernel({0xF4});
  const ModuleFile module("a", "x");
  MachineConfig config = config_for(kernel);
  config.initrd = module.path() + ",";
  const auto files = read_boot_files(config, false);
  ASSERT_FALSE(files);
  EXPECT_NE(files.error().message.find("without a name"), std::string::npos);
}

TEST(Modules, OtherKernelsHaveOneRamDiskWhateverItsName) {
  const ModuleFile disk("r d,x", "disk");
  const std::string path = testing::TempDir() + fmt::format("vert-bzimage-{}", ::getpid());
  const test::Image image = test::make_bzimage();
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(image.data()), static_cast<std::streamsize>(image.size()));
  MachineConfig config;
  config.kernel = path;
  config.initrd = disk.path();
  const auto files = read_boot_files(config, false);
  std::filesystem::remove(path);
  ASSERT_TRUE(files) << files.error().message;
  ASSERT_EQ((*files)->source.modules.size(), 1U);
  EXPECT_EQ(text_of((*files)->source.modules[0]), "disk");
}

}  // namespace
}  // namespace vert::machine
