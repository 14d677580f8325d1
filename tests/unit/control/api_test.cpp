#include "control/api.hpp"

#include <gtest/gtest.h>

#include "engine/bt/translator.hpp"
#include "unit/control/fake_vm.hpp"

namespace vert::control::test {
namespace {

using nlohmann::json;

class ApiTest : public testing::Test {
 protected:
  ApiAnswer ask(const std::string& method, const std::string& endpoint, const std::string& body = "") {
    const std::string target = std::string(kApiRoot) + endpoint;
    return answer(vm_, {method, target, body});
  }
  std::string error_of(const ApiAnswer& refusal) { return refusal.body.value("error", "no error"); }

  FakeVm vm_;
};

TEST_F(ApiTest, InfoHasTheShapeThatCloudHypervisorGivesIt) {
  const ApiAnswer info = ask("GET", "vm.info");
  EXPECT_EQ(info.status, 200U);
  EXPECT_EQ(info.body["state"], "Running");
  EXPECT_EQ(info.body["config"]["cpus"]["boot_vcpus"], 2);
  EXPECT_EQ(info.body["config"]["memory"]["size"], 512 << 20);
  EXPECT_EQ(info.body["config"]["payload"]["kernel"], "/boot/vmlinuz");
  EXPECT_EQ(info.body["vert"]["instructions"], 42);
  EXPECT_NO_THROW(static_cast<void>(info.body.dump()));  // whatever bytes the command line has
}

TEST_F(ApiTest, PauseAndResumeGoWithTheState) {
  EXPECT_EQ(ask("PUT", "vm.resume").status, 400U);
  EXPECT_EQ(ask("PUT", "vm.pause").status, 204U);
  EXPECT_EQ(ask("GET", "vm.info").body["state"], "Paused");
  EXPECT_EQ(ask("PUT", "vm.pause").status, 400U);
  EXPECT_EQ(ask("PUT", "vm.power-button").status, 400U);
  EXPECT_EQ(ask("PUT", "vm.resume").status, 204U);
  EXPECT_EQ(ask("PUT", "vm.power-button").status, 204U);
  EXPECT_EQ(ask("PUT", "vm.reboot", "{}").status, 204U);
  EXPECT_EQ(vm_.presses, 1);
  EXPECT_EQ(vm_.resets, 1);
}

TEST_F(ApiTest, TheConsolesSizeIsPassedOn) {
  EXPECT_EQ(ask("PUT", "vm.console-size", R"({"columns": 132, "rows": 43})").status, 204U);
  EXPECT_EQ(vm_.console_size, std::pair(u16{132}, u16{43}));
  for (const char* body : {"", R"({"columns": 80})", R"({"columns": 80, "rows": 0})",
                           R"({"columns": 65536, "rows": 24})", R"({"columns": 80, "rows": -1})"})
    EXPECT_EQ(ask("PUT", "vm.console-size", body).status, 400U) << body;
}

TEST_F(ApiTest, DisksAreGrown) {
  EXPECT_EQ(ask("PUT", "vm.resize-disk", R"({"id": "vda", "desired_size": 4294967296})").status, 204U);
  EXPECT_EQ(vm_.disk_size, u64{1} << 32);
  EXPECT_EQ(ask("GET", "vm.info").body["vert"]["disks"][0]["size"], u64{1} << 32);
  for (const char* body :
       {"", R"({"id": 1, "desired_size": 512})", R"({"id": "vda", "desired_size": -1})", R"({"id": "vdb"})"})
    EXPECT_EQ(ask("PUT", "vm.resize-disk", body).status, 400U) << body;
}

TEST_F(ApiTest, AMachineThatDoesNotAnswerIsToldOf) {
  vm_.deaf = true;
  for (const auto& [method, endpoint] : {std::pair{"PUT", "vm.pause"}, std::pair{"GET", "vm.engine-counters"},
                                         std::pair{"PUT", "vm.hot-blocks"}}) {
    const ApiAnswer refusal = ask(method, endpoint);
    EXPECT_EQ(refusal.status, 503U) << endpoint;
    EXPECT_EQ(error_of(refusal), "vCPU 1 has not stopped") << endpoint;
  }
}

TEST_F(ApiTest, ShutDownComesAfterTheAnswer) {
  EXPECT_EQ(ask("PUT", "vm.shutdown").then, ApiAnswer::Then::kShutDown);
  EXPECT_EQ(ask("PUT", "vmm.shutdown").then, ApiAnswer::Then::kShutDown);
  EXPECT_EQ(vm_.shut_downs, 0);
}

TEST_F(ApiTest, WhatIsNotThereIsRefused) {
  for (const char* target : {"", "/", "/api/v1", "/api/v1/", "/api/v1/vm.infos", "/api/v2/vm.info", "vm.info",
                             "*", "/api/v1/../vm.info", "/api/v1/vm.create"})
    EXPECT_EQ(answer(vm_, {"GET", target, ""}).status, 404U) << target;
  EXPECT_EQ(answer(vm_, {"GET", "/api/v1/vm.info?x=1", ""}).status, 200U);
}

TEST_F(ApiTest, WrongMethodSaysTheRightOne) {
  const ApiAnswer refusal = ask("GET", "vm.pause");
  EXPECT_EQ(refusal.status, 405U);
  EXPECT_EQ(refusal.allowed, "PUT");
  EXPECT_EQ(ask("", "vm.info").status, 405U);
  EXPECT_EQ(ask("DELETE", "vmm.ping").status, 405U);
}

TEST_F(ApiTest, MalformedBodiesAreRefused) {
  for (const std::string body : {"{", "[]", "3", "\"a\"", "null", "{\"a\":}", "\xff\xfe", "{} {}", "nul"})
    EXPECT_EQ(ask("PUT", "vm.pause", body).status, 400U) << body;
  EXPECT_EQ(ask("PUT", "vm.pause", std::string(60'000, '[')).status, 400U);
  std::string deep;
  for (int i = 0; i < 10'000; ++i) deep += "{\"a\":";
  EXPECT_EQ(ask("PUT", "vm.pause", deep).status, 400U);
  EXPECT_EQ(vm_.state(), machine::Machine::State::kRunning);
}

TEST_F(ApiTest, HotBlocksWantBoundedNumbers) {
  for (const char* body :
       {R"({"milliseconds":60001})", R"({"milliseconds":-1})", R"({"milliseconds":1.5})",
        R"({"milliseconds":"1"})", R"({"hottest":101})", R"({"hottest":[]})", R"({"milliseconds":1e300})"})
    EXPECT_EQ(ask("PUT", "vm.hot-blocks", body).status, 400U) << body;
  EXPECT_FALSE(vm_.sampling);
  const ApiAnswer begun = ask("PUT", "vm.hot-blocks", R"({"milliseconds":5,"hottest":3})");
  ASSERT_TRUE(begun.sampling.has_value());
  EXPECT_EQ(begun.sampling->time.count(), 5);
  EXPECT_TRUE(vm_.sampling);
  const ApiAnswer done = finish_sampling(vm_, begun.sampling->hottest);
  EXPECT_FALSE(vm_.sampling);
  EXPECT_EQ(done.body["vcpus"][0]["listing"], "listing");
  EXPECT_EQ(done.body["vcpus"][0]["groups"][0]["counters"][0]["value"], 3);
}

TEST_F(ApiTest, AnEngineThatTakesNoSamplesSaysSo) {
  vm_.can_sample = false;
  EXPECT_NE(error_of(ask("PUT", "vm.hot-blocks")).find("does not support sampling"), std::string::npos);
}

TEST_F(ApiTest, ExplainShowsCodeOfTheGuest) {
  if (!bt::Translator::usable()) GTEST_SKIP() << "no translator here";
  const ApiAnswer shown = ask("PUT", "vm.explain", R"({"begin":"0x401000","end":"0x401004"})");
  ASSERT_EQ(shown.status, 200U) << shown.body;
  EXPECT_NE(shown.body["listing"].get<std::string>().find("nop"), std::string::npos);
  EXPECT_EQ(ask("PUT", "vm.explain", R"({"begin":"0xffffffffffffffff"})").status, 200U);
}

TEST_F(ApiTest, ExplainChecksItsRange) {
  for (const char* body : {"{}", R"({"begin":"401000"})", R"({"begin":"0x"})", R"({"begin":"0x1g"})",
                           R"({"begin":true})", R"({"begin":-1})", R"({"begin":"0x10000000000000000"})",
                           R"({"begin":"0x2","end":"0x1"})", R"({"begin":"0x0","end":"0xffffffffffffffff"})",
                           R"({"begin":"0x0","end":"0x10001"})", R"({"begin":"0x0","vcpu":2})",
                           R"({"begin":"0x0","vcpu":4294967296})", R"({"begin":"0x0","mode":"real"})"})
    EXPECT_EQ(ask("PUT", "vm.explain", body).status, 400U) << body;
}

TEST_F(ApiTest, CountersSurviveTheWay) {
  const ApiAnswer counters = ask("GET", "vm.engine-counters");
  const auto groups = groups_from_json(counters.body["vcpus"][0]["groups"]);
  ASSERT_TRUE(groups && groups->size() == 1);
  EXPECT_EQ((*groups)[0].name, "exits");
  EXPECT_TRUE((*groups)[0].parts);
  EXPECT_EQ((*groups)[0].counters[0].value, 7U);
}

TEST_F(ApiTest, CountersOfAnotherFormAreRefused) {
  for (const char* text : {"null", "{}", "[1]", "[{}]", R"([{"name":1,"parts":true,"counters":[]}])",
                           R"([{"name":"a","parts":true,"counters":[{"name":"b","value":-1}]}])",
                           R"([{"name":"a","parts":true,"counters":[7]}])"})
    EXPECT_FALSE(groups_from_json(json::parse(text))) << text;
}

}  // namespace
}  // namespace vert::control::test
