#include "control/api.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>

#include "machine/code_listing.hpp"

namespace vert::control {

namespace {

using nlohmann::json;
using State = machine::Machine::State;

constexpr unsigned kOk = 200;
constexpr unsigned kBadRequest = 400;
constexpr unsigned kNotFound = 404;
constexpr unsigned kMethodNotAllowed = 405;
constexpr unsigned kTooManyRequests = 429;
constexpr unsigned kUnanswered = 503;

constexpr std::string_view kVersion = VERT_VERSION;

/// Text from outside (file names, command lines) may be no UTF-8, which JSON cannot hold.
json text(const std::string& value) {
  const json whole =
      json::parse(json(value).dump(-1, ' ', true, json::error_handler_t::replace), nullptr, false);
  return whole.is_discarded() ? json("") : whole;
}

std::string_view name_of(State state) {
  switch (state) {
    case State::kCreated: return "Created";
    case State::kRunning: return "Running";
    case State::kPaused: return "Paused";
    case State::kEnded: return "Shutdown";
  }
  return "Shutdown";
}

ApiAnswer give(json body) { return {.status = kOk, .body = std::move(body)}; }

/// A number from a JSON object, or `otherwise`; an error if it is something else, or too large.
Result<u64> number(const json& object, const char* name, u64 otherwise, u64 most) {
  const auto found = object.find(name);
  if (found == object.end()) return otherwise;
  if (!found->is_number_unsigned()) return make_error("'{}' must be a non-negative integer", name);
  const u64 value = found->get<u64>();
  if (value > most) return make_error("'{}' must be at most {}", name, most);
  return value;
}

/// An address: a number, or a string as "0xffffffff81000000", since not all clients have 64-bit numbers.
Result<u64> address(const json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end()) return make_error("'{}' is missing", name);
  if (found->is_number_unsigned()) return found->get<u64>();
  if (!found->is_string()) return make_error("'{}' must be an address, such as \"0x401000\"", name);
  const auto& written = found->get_ref<const std::string&>();
  u64 value = 0;
  const char* const end = written.data() + written.size();
  const bool prefix = written.starts_with("0x");
  const auto [rest, error] = std::from_chars(written.data() + (prefix ? 2 : 0), end, value, 16);
  if (!prefix || error != std::errc{} || rest != end)
    return make_error("'{}' must be an address, such as \"0x401000\"", name);
  return value;
}

/// A body that is a JSON object; none is an empty one.
Result<json> parse_object(std::string_view body) {
  if (body.empty()) return json::object();
  json parsed = json::parse(body, nullptr, false);
  if (parsed.is_discarded()) return make_error("the body is not JSON");
  if (!parsed.is_object()) return make_error("the body is not a JSON object");
  return parsed;
}

ApiAnswer ping(Vm& /*vm*/, const json& /*arguments*/) {
  return give(
      {{"build_version", kVersion}, {"version", kVersion}, {"pid", ::getpid()}, {"features", json::array()}});
}

json config_json(const VmDescription& description) {
  const machine::MachineConfig& config = description.config;
  json payload = {{"kernel", text(config.kernel)}, {"cmdline", text(config.append)}};
  if (!config.initrd.empty()) payload["initramfs"] = text(config.initrd);
  json devices = json::array();
  for (const std::string& device : config.devices) devices.push_back(text(device));
  json disks = json::array();
  for (const machine::DiskConfig& disk : config.disks)
    disks.push_back({{"id", machine::disk_id(disks.size())},
                     {"path", text(disk.path)},
                     {"readonly", disk.image.read_only},
                     {"serial", text(disk.serial)}});
  return {{"cpus", {{"boot_vcpus", config.cpus}, {"max_vcpus", config.cpus}}},
          {"memory", {{"size", config.memory_bytes}}},
          {"payload", std::move(payload)},
          {"disks", std::move(disks)},
          {"serial", {{"mode", text(description.serial)}}},
          {"vert",
           {{"engine", text(config.engine)},
            {"cpu_model", text(config.cpu_model)},
            {"devices", std::move(devices)},
            {"no_reboot", config.no_reboot}}}};
}

json disks_json(const Vm& vm) {
  json disks = json::array();
  for (const machine::DiskState& disk : vm.disks()) disks.push_back({{"id", disk.id}, {"size", disk.size}});
  return disks;
}

ApiAnswer info(Vm& vm, const json& /*arguments*/) {
  const VmDescription& description = vm.description();
  const machine::MachineStatistics statistics = vm.statistics();
  return give({{"config", config_json(description)},
               {"state", name_of(vm.state())},
               {"memory_actual_size", description.config.memory_bytes},
               {"vert",
                {{"name", description.name},
                 {"pid", ::getpid()},
                 {"version", kVersion},
                 {"engine", description.engine},
                 {"started", description.started_seconds},
                 {"pause_reason", text(vm.pause_reason())},
                 {"disks", disks_json(vm)},
                 {"running_ns", statistics.host_ns},
                 {"instructions", statistics.instructions}}}});
}

ApiAnswer engine_counters(Vm& vm, const json& /*arguments*/) {
  const auto counters = vm.engine_counters();
  if (!counters) return refuse(kUnanswered, counters.error().message);
  json vcpus = json::array();
  for (const auto& groups : *counters) vcpus.push_back({{"groups", to_json(groups)}});
  return give({{"engine", vm.description().engine}, {"vcpus", std::move(vcpus)}});
}

ApiAnswer hot_blocks(Vm& vm, const json& arguments) {
  const auto milliseconds = number(arguments, "milliseconds", 3000, kMostSampledSeconds * 1000);
  if (!milliseconds) return refuse(kBadRequest, milliseconds.error().message);
  const auto hottest = number(arguments, "hottest", cpu::kUsualHottest, kMostHotBlocks);
  if (!hottest) return refuse(kBadRequest, hottest.error().message);
  if (vm.state() != State::kRunning) return refuse(kBadRequest, "the VM is not running");
  const auto started = vm.start_sampling();
  if (!started) return refuse(kUnanswered, started.error().message);
  if (!*started) {
    static_cast<void>(vm.stop_sampling());
    return refuse(kBadRequest, fmt::format("engine '{}' does not support sampling", vm.description().engine));
  }
  return {.sampling = ApiAnswer::Sampling{std::chrono::milliseconds(*milliseconds), *hottest}};
}

Result<machine::CodeKind> kind_of(const json& arguments, machine::CodeKind usual) {
  const auto found = arguments.find("mode");
  if (found == arguments.end()) return usual;
  if (*found == "user") return machine::CodeKind::kUser;
  if (*found == "kernel") return machine::CodeKind::kKernel;
  if (*found == "user32") return machine::CodeKind::kUser32;
  return make_error("'mode' can be \"user\", \"kernel\" or \"user32\"");
}

Result<std::string> explained(Vm& vm, const json& arguments) {
  constexpr std::size_t kLongestBlock = 4096;  // blocks do not leave their page
  VERT_ASSIGN(const u64 begin, address(arguments, "begin"));
  VERT_ASSIGN(const u64 end, arguments.contains("end") ? address(arguments, "end") : Result<u64>(begin));
  VERT_ASSIGN(const u64 vcpu, number(arguments, "vcpu", 0, std::numeric_limits<unsigned>::max()));
  if (end < begin) return make_error("'end' is before 'begin'");
  if (end - begin > kMostExplained)
    return make_error("'begin' to 'end' is {} bytes; the limit is {}", end - begin, kMostExplained);
  const std::size_t size = end == begin ? kLongestBlock - begin % kLongestBlock : end - begin;
  VERT_ASSIGN(const machine::GuestBytes code, vm.read_guest(static_cast<unsigned>(vcpu), begin, size));
  VERT_ASSIGN(const machine::CodeKind kind, kind_of(arguments, code.kind));
  VERT_ASSIGN(std::string listing,
              machine::list_code(code.bytes, begin, kind,
                                 end == begin ? 1 : std::numeric_limits<std::size_t>::max()));
  if (code.bytes.size() < size && end != begin)
    listing += fmt::format("nothing is mapped at {:#x}\n", begin + code.bytes.size());
  return listing;
}

ApiAnswer explain(Vm& vm, const json& arguments) {
  const auto listing = explained(vm, arguments);
  if (!listing) return refuse(kBadRequest, listing.error().message);
  return give({{"listing", *listing}});
}

ApiAnswer pause(Vm& vm, const json& /*arguments*/) {
  if (vm.state() == State::kPaused) return refuse(kBadRequest, "the VM is already paused");
  if (const Status paused = vm.pause(); !paused) return refuse(kUnanswered, paused.error().message);
  return {};
}

ApiAnswer resume(Vm& vm, const json& /*arguments*/) {
  if (vm.state() != State::kPaused) return refuse(kBadRequest, "the VM is not paused");
  vm.resume();
  return {};
}

ApiAnswer power_button(Vm& vm, const json& /*arguments*/) {
  if (vm.state() == State::kPaused) return refuse(kBadRequest, "the VM is paused; resume it first");
  vm.press_power_button();
  return {};
}

ApiAnswer console_size(Vm& vm, const json& arguments) {
  const auto columns = number(arguments, "columns", 0, std::numeric_limits<u16>::max());
  if (!columns) return refuse(kBadRequest, columns.error().message);
  const auto rows = number(arguments, "rows", 0, std::numeric_limits<u16>::max());
  if (!rows) return refuse(kBadRequest, rows.error().message);
  if (*columns == 0 || *rows == 0) return refuse(kBadRequest, "'columns' and 'rows' must be positive");
  vm.set_console_size(static_cast<u16>(*columns), static_cast<u16>(*rows));
  return {};
}

ApiAnswer resize_disk(Vm& vm, const json& arguments) {
  const std::string id = arguments.value("id", json()).is_string() ? arguments["id"].get<std::string>() : "";
  if (id.empty()) return refuse(kBadRequest, "'id' must be a disk, such as \"vda\"");
  const auto size = number(arguments, "desired_size", 0, std::numeric_limits<u64>::max() / 2);
  if (!size) return refuse(kBadRequest, size.error().message);
  if (vm.state() == State::kPaused) return refuse(kBadRequest, "the VM is paused; resume it first");
  if (const Status grown = vm.grow_disk(id, *size); !grown) return refuse(kBadRequest, grown.error().message);
  return {};
}

ApiAnswer reboot(Vm& vm, const json& /*arguments*/) {
  vm.reset();
  return {};
}

ApiAnswer shut_down(Vm& /*vm*/, const json& /*arguments*/) { return {.then = ApiAnswer::Then::kShutDown}; }
ApiAnswer console(Vm& /*vm*/, const json& /*arguments*/) {
  return {.status = 101, .then = ApiAnswer::Then::kConsole};
}

struct Endpoint {
  std::string_view name;
  std::string_view method;
  ApiAnswer (*call)(Vm& vm, const json& arguments);
};

constexpr std::array kEndpoints = {
    Endpoint{"vmm.ping", "GET", ping},
    Endpoint{"vmm.shutdown", "PUT", shut_down},
    Endpoint{"vm.info", "GET", info},
    Endpoint{"vm.pause", "PUT", pause},
    Endpoint{"vm.resume", "PUT", resume},
    Endpoint{"vm.power-button", "PUT", power_button},
    Endpoint{"vm.resize-disk", "PUT", resize_disk},
    Endpoint{"vm.reboot", "PUT", reboot},
    Endpoint{"vm.shutdown", "PUT", shut_down},
    Endpoint{"vm.console", "GET", console},
    Endpoint{"vm.console-size", "PUT", console_size},
    Endpoint{"vm.engine-counters", "GET", engine_counters},
    Endpoint{"vm.hot-blocks", "PUT", hot_blocks},
    Endpoint{"vm.explain", "PUT", explain},
};

}  // namespace

ApiAnswer refuse(unsigned status, const std::string& message) {
  return {.status = status, .body = {{"error", text(message)}}};
}

ApiAnswer answer(Vm& vm, const ApiRequest& request) {
  const std::string_view path = request.target.substr(0, request.target.find('?'));
  const auto found = std::ranges::find_if(kEndpoints, [&](const Endpoint& endpoint) {
    return path.starts_with(kApiRoot) && path.substr(kApiRoot.size()) == endpoint.name;
  });
  if (found == kEndpoints.end())
    return refuse(kNotFound,
                  fmt::format("no endpoint {}; see ARCHITECTURE.md, for example {}vm.info", path, kApiRoot));
  if (request.method != found->method) {
    ApiAnswer refusal = refuse(kMethodNotAllowed, fmt::format("{} needs method {}", path, found->method));
    refusal.allowed = found->method;
    return refusal;
  }
  if (request.sampling && found->call == hot_blocks)
    return refuse(kTooManyRequests, "sampling is already in progress; try again later");
  const auto arguments = parse_object(request.body);
  if (!arguments) return refuse(kBadRequest, arguments.error().message);
  return found->call(vm, *arguments);
}

ApiAnswer finish_sampling(Vm& vm, std::size_t hottest) {
  const auto reports = vm.engine_samples(hottest);
  if (!reports) return refuse(kUnanswered, reports.error().message);
  if (const Status ended = vm.stop_sampling(); !ended) return refuse(kUnanswered, ended.error().message);
  json vcpus = json::array();
  for (const cpu::SampleReport& report : *reports)
    vcpus.push_back({{"groups", to_json(report.groups)}, {"listing", text(report.listing)}});
  return give({{"engine", vm.description().engine}, {"vcpus", std::move(vcpus)}});
}

json to_json(const std::vector<cpu::CounterGroup>& groups) {
  json all = json::array();
  for (const cpu::CounterGroup& group : groups) {
    json counters = json::array();
    for (const cpu::Counter& counter : group.counters)
      counters.push_back({{"name", text(counter.name)}, {"value", counter.value}});
    all.push_back({{"name", text(group.name)}, {"parts", group.parts}, {"counters", std::move(counters)}});
  }
  return all;
}

Result<std::vector<cpu::CounterGroup>> groups_from_json(const json& all) {
  const auto wrong = make_error("unexpected answer from the VM; does it run another version of vert?");
  const auto is = [](const json& object, const char* name, json::value_t type) {
    const auto found = object.find(name);
    return found != object.end() && found->type() == type;
  };
  if (!all.is_array()) return wrong;
  std::vector<cpu::CounterGroup> groups;
  for (const json& group : all) {
    if (!group.is_object() || !is(group, "name", json::value_t::string) ||
        !is(group, "parts", json::value_t::boolean) || !is(group, "counters", json::value_t::array))
      return wrong;
    groups.push_back({group["name"].get<std::string>(), group["parts"].get<bool>(), {}});
    for (const json& counter : group["counters"]) {
      if (!counter.is_object() || !is(counter, "name", json::value_t::string) ||
          !is(counter, "value", json::value_t::number_unsigned))
        return wrong;
      groups.back().counters.push_back({counter["name"].get<std::string>(), counter["value"].get<u64>()});
    }
  }
  return groups;
}

}  // namespace vert::control
