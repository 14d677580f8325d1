#include "machine/disk_boot/grub_script.hpp"

#include <gtest/gtest.h>

namespace vert::machine::disk_boot {
namespace {

const char* const kMenus =
    "menuentry 'first' --class os $menuentry_id_option 'id-first' {\n linux /a\n}\n"
    "submenu \"more\" --id id-more {\n"
    "  menuentry 'inner one' { linux /b; initrd /c; }\n"
    "  submenu deep {\n menuentry 'inner > two' --unrestricted --id=two {\n linux /d\n}\n}\n"
    "}\n"
    "function f { menuentry hidden { true\n }\n }\n"
    "menuentry last --hotkey x { linux /e }\n";

std::string default_title(const std::string& before, const Variables& known = {}) {
  const auto script = parse_grub_script(before + "\n" + kMenus);
  if (!script) return "malformed";
  const GrubEntry* const entry = grub_default(*script, known);
  return entry != nullptr ? entry->title : "none";
}

/// The words of the only command, one in each pair of brackets.
std::string words(const std::string& text, const Variables& variables = {}) {
  const auto script = parse_grub_script(text);
  if (!script || script->commands.size() != 1) return "not one command";
  std::string list;
  for (const GrubWord& word : script->commands[0]) list += "[" + word.expand(variables).value_or("?") + "]";
  return list;
}

TEST(GrubScript, FirstEntryIsTheDefault) { EXPECT_EQ(default_title(""), "first"); }

TEST(GrubScript, DefaultIsANumberIdentifierOrTitle) {
  EXPECT_EQ(default_title("set default=2"), "last");
  EXPECT_EQ(default_title("set default=\"id-first\""), "first");
  EXPECT_EQ(default_title("set default='last'"), "last");
}

TEST(GrubScript, DefaultLeadsThroughSubmenus) {
  EXPECT_EQ(default_title("set default='1>0'"), "inner one");
  EXPECT_EQ(default_title("set default='more>inner one'"), "inner one");
  EXPECT_EQ(default_title("set default='id-more>1>two'"), "inner > two");
  EXPECT_EQ(default_title("set default='id-more>deep>inner > two'"), "inner > two");
  EXPECT_EQ(default_title("set default=1"), "inner one");
}

TEST(GrubScript, DefaultThatIsNotThereIsTheFirst) {
  for (const char* const name : {"7", "gone", "1>7", "0>0", "99999999999999999999", "-1", "1x"})
    EXPECT_EQ(default_title(std::string("set default='") + name + "'"), "first") << name;
}

TEST(GrubScript, DefaultOfTheEnvironmentBlockCounts) {
  const std::string saved =
      "if [ \"${next_entry}\" ] ; then\n set default=\"${next_entry}\"\nelse\n set "
      "default=\"${saved_entry}\"\nfi";
  EXPECT_EQ(default_title(saved), "first");
  EXPECT_EQ(default_title(saved, {{"saved_entry", "last"}}), "last");
  const std::string fixed =
      "if [ \"${next_entry}\" ] ; then\n set default=\"${next_entry}\"\nelse\n set default=\"2\"\nfi";
  EXPECT_EQ(default_title(fixed, {{"saved_entry", "first"}}), "last");
}

TEST(GrubScript, WordsAreQuotedAndEscapedAsInAShell) {
  EXPECT_EQ(words("linux 'a b' \"c d\" e\\ f g'h'i \"j\\\"k\\l\" # comment"),
            R"([linux][a b][c d][e f][ghi][j"k\l])");
  EXPECT_EQ(words("linux a \\\n b#c\r\n"), "[linux][a][b#c]");
  EXPECT_EQ(words("linux '' \"\""), "[linux][][]");
}

TEST(GrubScript, VariablesAreReplaced) {
  const Variables known = {{"a", "1"}, {"b_2", "x y"}};
  EXPECT_EQ(words("echo $a ${a}$b_2 \"$a-${b_2}\" '$a' \\$a $ $unknown x${unknown}", known),
            "[echo][1][1x y][1-x y][$a][$a][$][?][?]");
}

TEST(GrubScript, KeywordsOfConditionsAreNoCommands) {
  const auto script =
      parse_grub_script("menuentry a {\nif [ x$a = xb ]; then insmod c; else linux /a\nfi\n}");
  ASSERT_TRUE(script);
  std::string names;
  for (const GrubCommand& command : script->entries.at(0).commands) names += command[0].source() + " ";
  EXPECT_EQ(names, "if insmod linux fi ");
}

TEST(GrubScript, VariableOfTwoValuesIsUnknown) {
  const auto script = parse_grub_script(
      "set a=1\nset b=1\nset b=2\nset c=$unknown\nset d=3\nset d=3\nset known=new\nset malformed");
  ASSERT_TRUE(script);
  const Variables expected = {{"a", "1"}, {"d", "3"}, {"known", "old"}};
  EXPECT_EQ(grub_variables(*script, {{"known", "old"}}), expected);
}

TEST(GrubScript, BlocksThatDoNotMatchAreMalformed) {
  EXPECT_FALSE(parse_grub_script("menuentry a {\nlinux /a\n"));
  EXPECT_FALSE(parse_grub_script("}\n"));
}

TEST(GrubScript, NestingHasALimit) {
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += "submenu a {\n";
  EXPECT_FALSE(parse_grub_script(text));
}

TEST(GrubScript, AnyEndOfTheFileIsAccepted) {
  for (const char* const end : {"\\", "'", "\"", "\"$", "$", "${", "${a", "\"\\", "#", ";", "a\\"})
    EXPECT_TRUE(parse_grub_script(std::string("linux /a ") + end)) << end;
}

TEST(GrubScript, EmptyMenuHasNoDefault) {
  const auto script = parse_grub_script("submenu a {\n}\n");
  ASSERT_TRUE(script);
  EXPECT_EQ(grub_default(*script, {}), nullptr);
}

}  // namespace
}  // namespace vert::machine::disk_boot
