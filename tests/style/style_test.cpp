// The tree obeys its rules, and the check that says so can fail: each rule is broken once in a planted tree.
#include <unistd.h>

#include <fstream>

#include <gtest/gtest.h>

#include "style/source_rules.hpp"

namespace vert::style {
namespace {

namespace fs = std::filesystem;

TEST(Style, TheTreeObeysItsRules) {
  for (const std::string& violation : violations(VERT_SOURCE_DIR)) ADD_FAILURE() << violation;
}

class PlantedTree : public testing::Test {
 protected:
  PlantedTree() : root_(fs::temp_directory_path() / ("vert-style-" + std::to_string(getpid()))) {}
  ~PlantedTree() override { fs::remove_all(root_); }

  void plant(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  /// The one violation of the tree, or how many there are instead.
  std::string only_violation() {
    const auto found = violations(root_);
    return found.size() == 1 ? found[0] : std::to_string(found.size()) + " violations";
  }

  fs::path root_;
};

TEST_F(PlantedTree, DownwardIncludesAreFine) {
  plant("src/machine/a.cpp",
        "// A.\n#include \"engine/interp/interpreter.hpp\"\n#include \"device/pci/b.hpp\"\n#include "
        "<sys/mman.h>\n");
  plant("src/engine/interp/a.cpp",
        "// A.\n#include \"engine/interp/b.hpp\"\n#include \"cpu/cpu_state.hpp\"\n");
  plant("src/device/pci/a.hpp", "// A.\n#include \"device/irqchip/b.hpp\"\n#include \"memory/bus.hpp\"\n");
  plant("src/engine/kvm/a.cpp", "// A.\n#include <linux/kvm.h>\n");
  plant("tests/unit/x/a.cpp", "// A.\n#include \"machine/machine.hpp\"\n");
  plant("src/base/fd.cpp", "#include \"base/fd.hpp\"\n");
  plant("tests/unit/x/fd_test.cpp", "#include \"base/fd.hpp\"\n");
  EXPECT_EQ(violations(root_), std::vector<std::string>());
}

TEST_F(PlantedTree, UpwardIncludeIsFound) {
  plant("src/memory/a.hpp", "// A.\n#include \"cpu/cpu_state.hpp\"\n");
  EXPECT_EQ(only_violation(), "src/memory/a.hpp:2: memory must not include cpu/cpu_state.hpp");
}

TEST_F(PlantedTree, DeviceMustNotSeeAnEngine) {
  plant("src/device/legacy/a.cpp", "// A.\n\n#  include \"engine/interp/interpreter.hpp\"\n");
  EXPECT_EQ(only_violation(),
            "src/device/legacy/a.cpp:3: device must not include engine/interp/interpreter.hpp");
}

TEST_F(PlantedTree, EnginesMustNotSeeEachOther) {
  plant("src/engine/bt/a.cpp", "// A.\n#include \"engine/interp/interpreter.hpp\"\n");
  EXPECT_EQ(only_violation(),
            "src/engine/bt/a.cpp:2: engine/bt must not include engine/interp/interpreter.hpp");
}

TEST_F(PlantedTree, KvmHeaderOutsideItsEngineIsFound) {
  plant("src/machine/a.cpp", "// A.\n#include <linux/kvm.h>\n");
  EXPECT_EQ(only_violation(), "src/machine/a.cpp:2: only src/engine/kvm may include <linux/kvm.h>");
}

TEST_F(PlantedTree, OsHeaderInThePureLayerIsFound) {
  plant("src/x86/a.cpp", "// A.\n#include <sys/mman.h>\n");
  EXPECT_EQ(only_violation(), "src/x86/a.cpp:2: x86/ is pure, it must not include sys/mman.h");
}

TEST_F(PlantedTree, UnknownFolderIsFound) {
  plant("src/misc/a.cpp", "// A.\n");
  EXPECT_EQ(only_violation(), "src/misc/a.cpp:0: the folder has no place in the layer graph");
}

TEST_F(PlantedTree, MissingHeadIsFound) {
  plant("bench/a.c", "\nint a;\n");
  EXPECT_EQ(only_violation(), "bench/a.c:2: the file does not begin with a comment that says what it is");
}

TEST_F(PlantedTree, AnotherHeaderIsNoHead) {
  plant("src/base/a.cpp", "#include \"base/b.hpp\"\n");
  EXPECT_EQ(only_violation(),
            "src/base/a.cpp:1: the file does not begin with a comment that says what it is");
}

TEST_F(PlantedTree, LongFileIsFound) {
  std::string text = "// A.\n";
  for (int line = 0; line < 800; ++line) text += "\n";
  plant("src/base/a.cpp", text);
  EXPECT_EQ(only_violation(), "src/base/a.cpp:801: longer than 800 lines; it hides two files");
}

}  // namespace
}  // namespace vert::style
