#include "machine/disk_boot/grub_script.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <set>

namespace vert::machine::disk_boot {

namespace {

constexpr unsigned kMaxDepth = 16;
constexpr std::string_view kBlanks = " \t\r";
constexpr std::string_view kMeta = ";|&<>\n";

bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/// Cuts the text into commands.
class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  [[nodiscard]] bool at_end() const { return text_.empty(); }

  /// The words up to the end of the command, which an open or closing brace is, too, and then its last word.
  /// May be empty.
  GrubCommand next() {
    GrubCommand command;
    while (true) {
      skip_blanks();
      if (at_end()) return command;
      if (text_.front() == '#' || is_meta(text_.front())) {
        end_command();
        return command;
      }
      command.push_back(word());
      if (command.back().is("{") || command.back().is("}")) return command;
    }
  }

 private:
  static bool is_meta(char c) { return kMeta.find(c) != std::string_view::npos; }
  static bool ends_word(char c) { return is_meta(c) || kBlanks.find(c) != std::string_view::npos; }

  void skip_blanks() {
    while (!at_end()) {
      if (text_.starts_with("\\\n"))
        text_.remove_prefix(2);
      else if (kBlanks.find(text_.front()) != std::string_view::npos)
        text_.remove_prefix(1);
      else
        return;
    }
  }

  void end_command() {
    if (text_.front() == '#') text_.remove_prefix(std::min(text_.find('\n'), text_.size()));
    if (!at_end()) text_.remove_prefix(1);
  }

  char take() {
    const char c = text_.front();
    text_.remove_prefix(1);
    return c;
  }

  static void add_text(GrubWord& word, std::string_view text) {
    if (word.pieces.empty() || word.pieces.back().is_variable) word.pieces.emplace_back();
    word.pieces.back().text += text;
  }

  GrubWord word() {
    GrubWord made;
    while (!at_end() && !ends_word(text_.front())) {
      const char c = take();
      switch (c) {
        case '\'': quote(made, false); break;
        case '"': quote(made, true); break;
        case '$': variable(made); break;
        case '\\':
          if (!at_end()) escape(made);
          break;
        default: add_text(made, std::string_view(&c, 1)); break;
      }
    }
    return made;
  }

  void escape(GrubWord& word) {
    const char c = take();
    if (c != '\n') add_text(word, std::string_view(&c, 1));
  }

  /// In double quotes a backslash escapes only what would be special there.
  void quote(GrubWord& word, bool is_double) {
    word.quoted = true;
    while (!at_end()) {
      const char c = take();
      if (c == (is_double ? '"' : '\'')) return;
      if (is_double && c == '$')
        variable(word);
      else if (is_double && c == '\\' && !at_end() &&
               std::string_view("\"$\\\n").find(text_.front()) != std::string_view::npos)
        escape(word);
      else
        add_text(word, std::string_view(&c, 1));
    }
  }

  void variable(GrubWord& word) {
    const bool braced = text_.starts_with('{');
    if (braced) text_.remove_prefix(1);
    std::string name;
    if (!at_end() &&
        (text_.front() == '?' || text_.front() == '*' || text_.front() == '@' || text_.front() == '#'))
      name = take();
    else
      while (!at_end() && is_name_char(text_.front())) name += take();
    if (braced && text_.starts_with('}')) text_.remove_prefix(1);
    if (name.empty())
      add_text(word, "$");
    else
      word.pieces.push_back({true, name});
  }

  std::string_view text_;
};

/// The first word of a command may follow on the keyword of a condition or loop.
void strip_keywords(GrubCommand& command) {
  static constexpr std::array<std::string_view, 3> kKeywords = {"then", "else", "do"};
  while (!command.empty() && std::ranges::any_of(kKeywords, [&](std::string_view keyword) {
    return command.front().is(keyword);
  }))
    command.erase(command.begin());
}

/// menuentry TITLE [--class=CLASS] [--users=USERS] [--unrestricted] [--hotkey=KEY] [--id=ID] [ARGUMENT...]
GrubEntry entry_head(const GrubCommand& command) {
  GrubEntry entry;
  entry.is_submenu = command.front().is("submenu");
  bool has_title = false;
  for (std::size_t i = 1; i + 1 < command.size(); ++i) {
    const std::string word = command[i].source();
    const bool option = !command[i].quoted && word.starts_with("--");
    if (option && word.starts_with("--id=")) {
      entry.id = word.substr(5);
    } else if (word == "--id" || word == "${menuentry_id_option}") {
      entry.id = command[++i].source();
    } else if (word == "--class" || word == "--users" || word == "--hotkey" || word == "--source") {
      ++i;
    } else if (!option && !has_title) {
      entry.title = word;
      has_title = true;
    }
  }
  return entry;
}

class Parser {
 public:
  explicit Parser(std::string_view text) : lexer_(text) {}

  std::optional<GrubEntry> run() {
    GrubEntry top;
    top.is_submenu = true;
    if (!fill(top, 0, false)) return std::nullopt;
    return top;
  }

 private:
  /// Reads up to the closing brace, or the end of the file.
  bool fill(GrubEntry& into, unsigned depth, bool until_brace) {
    if (depth > kMaxDepth) return false;
    while (!lexer_.at_end()) {
      GrubCommand command = lexer_.next();
      strip_keywords(command);
      if (command.empty()) continue;
      if (command.back().is("}")) {
        command.pop_back();
        if (!command.empty()) into.commands.push_back(std::move(command));
        return until_brace;
      }
      if (!command.back().is("{"))
        into.commands.push_back(std::move(command));
      else if (!block(into, command, depth))
        return false;
    }
    return !until_brace;
  }

  bool block(GrubEntry& into, const GrubCommand& command, unsigned depth) {
    GrubEntry entry = entry_head(command);
    if (!fill(entry, depth + 1, true)) return false;
    // Functions, and blocks for their own sake, are no entries.
    if (entry.is_submenu || command.front().is("menuentry")) into.entries.push_back(std::move(entry));
    return true;
  }

  Lexer lexer_;
};

/// The entry of a menu by its number, identifier or title.
const GrubEntry* find_entry(const std::vector<GrubEntry>& entries, std::string_view name) {
  for (const GrubEntry& entry : entries)
    if (entry.id == name || entry.title == name) return &entry;
  std::size_t index = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
  if (error != std::errc{} || end != name.data() + name.size() || index >= entries.size()) return nullptr;
  return &entries[index];
}

/// The first entry of a menu, or of its first submenu.
const GrubEntry* first_leaf(const GrubEntry* entry) {
  while (entry != nullptr && entry->is_submenu)
    entry = entry->entries.empty() ? nullptr : &entry->entries.front();
  return entry;
}

/// "1>2", "Advanced options>Linux 6.1": a way through the menus. A title may have a '>' itself.
const GrubEntry* follow(const GrubEntry& menu, std::string_view path) {
  if (const GrubEntry* const whole = find_entry(menu.entries, path)) return first_leaf(whole);
  const auto at = path.find('>');
  if (at == std::string_view::npos) return nullptr;
  const GrubEntry* const next = find_entry(menu.entries, path.substr(0, at));
  return next != nullptr && next->is_submenu ? follow(*next, path.substr(at + 1)) : nullptr;
}

/// `set NAME=VALUE` with a value that is known.
std::optional<std::pair<std::string, std::string>> assignment(const GrubCommand& command,
                                                              const Variables& known) {
  if (command.size() != 2 || !command[0].is("set")) return std::nullopt;
  const auto text = command[1].expand(known);
  const auto equals = text ? text->find('=') : std::string::npos;
  if (equals == std::string::npos) return std::nullopt;
  return std::pair(text->substr(0, equals), text->substr(equals + 1));
}

}  // namespace

bool GrubWord::is(std::string_view text) const {
  return !quoted && pieces.size() == 1 && !pieces[0].is_variable && pieces[0].text == text;
}

bool GrubWord::is_lone_variable() const { return !quoted && pieces.size() == 1 && pieces[0].is_variable; }

std::string GrubWord::source() const {
  std::string text;
  for (const Piece& piece : pieces) text += piece.is_variable ? "${" + piece.text + "}" : piece.text;
  return text;
}

std::optional<std::string> GrubWord::expand(const Variables& variables) const {
  std::string text;
  for (const Piece& piece : pieces) {
    const auto value = piece.is_variable ? variables.find(piece.text) : variables.end();
    if (piece.is_variable && value == variables.end()) return std::nullopt;
    text += piece.is_variable ? value->second : piece.text;
  }
  return text;
}

std::optional<GrubEntry> parse_grub_script(std::string_view text) { return Parser(text).run(); }

Variables grub_variables(const GrubEntry& script, const Variables& known) {
  Variables found = known;
  std::set<std::string, std::less<>> ambiguous;
  for (const GrubCommand& command : script.commands) {
    const auto set = assignment(command, known);
    if (!set || known.contains(set->first)) continue;
    const auto [at, is_new] = found.insert(*set);
    if (!is_new && at->second != set->second) ambiguous.insert(set->first);
  }
  for (const std::string& name : ambiguous) found.erase(name);
  return found;
}

const GrubEntry* grub_default(const GrubEntry& script, const Variables& known) {
  // Conditions choose between values from the environment block and a fixed one, and the last that is known
  // is it.
  std::string name = "0";
  for (const GrubCommand& command : script.commands)
    if (const auto set = assignment(command, known); set && set->first == "default" && !set->second.empty())
      name = set->second;
  const GrubEntry* const chosen = follow(script, name);
  return chosen != nullptr ? chosen : first_leaf(&script);
}

}  // namespace vert::machine::disk_boot
