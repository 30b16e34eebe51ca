// Owns: the graphs of attention and of products before the real cuDNN, which plans them for devices that are described
// and need not be here. It compiles their kernels; on a machine without a driver only loading them fails, and says so.
#include <doctest/doctest.h>

#include <fused_attention.hpp>
#include <fused_product.hpp>
#include <string>

#include "tools.hpp"

using namespace meft;
using namespace meft::cuda;

namespace {

/// A device's properties as cuDNN writes them: an A100, an H100, a B200.
std::string device(int architecture) {
  const bool ampere = architecture == 80, hopper = architecture == 90;
  const auto field = [](const char* name, long long value) {
    return "\"" + std::string(name) + "\": " + std::to_string(value) + ", ";
  };
  return "{\"maxGridSize\": [2147483647, 65535, 65535], \"maxBlockSize\": [1024, 1024, 64], " +
         field("deviceVer", 10 * architecture) +
         field("multiProcessorCount", ampere   ? 108
                                      : hopper ? 132
                                               : 148) +
         field("maxSharedMemoryPerBlockOptin", ampere ? 166912 : 232448) + field("maxSharedMemoryPerBlock", 49152) +
         field("reservedSharedMemoryPerBlock", 1024) + field("regsPerBlock", 65536) +
         field("maxRegistersPerSM", 65536) + field("smClockRateKHz", ampere ? 1410000 : 1980000) +
         field("memClockRateKHz", ampere ? 1215000 : 2619000) + field("l2CacheSize", ampere ? 41943040 : 52428800) +
         field("warpSize", 32) + field("maxCtasPerSM", 32) + field("maxThreadsPerBlock", 1024) +
         field("maxThreadsPerSM", 2048) + field("isTccDriver", 0) + field("supportCoopLaunch", 1) +
         field("driverVer", 13000) + field("cudaDeviceId", 0) + field("pciDeviceId", 0) +
         field("totalGlobalMem", 80ll << 30) + "\"deviceName\": \"described\"}";
}

/// Whether cuDNN has kernels for a graph, adding in a fixed order, among its first proposals.
bool compiles(dnn::Graph graph, int architecture, std::int64_t proposals = dnn::Graph::most_proposals) {
  const std::string said = test::message_of([&] { graph.plan(dnn::Device(device(architecture)), proposals); });
  CAPTURE(said);
  const bool loads = said == "no error", compiled = loads || said.find("cuLibraryLoadData") != said.npos;
  CHECK((compiled || said.find("no plan for a graph") != said.npos));
  return compiled;
}

bool both_compile(const fused::Shape& shape, int architecture) {
  return compiles(fused::forward_graph(shape), architecture) && compiles(fused::backward_graph(shape), architecture);
}

}  // namespace

TEST_CASE("the support surface is what cuDNN says") {
  for (const int architecture : {80, 90, 100})
    for (const std::int64_t width : {64, 128, 256})
      for (const bool causal : {false, true}) {
        if (architecture != 90 && width != 64) continue;
        CAPTURE(architecture);
        CAPTURE(width);
        CAPTURE(causal);
        CHECK(both_compile({16, 12, width, 128, 256, causal}, architecture) ==
              fused::runs(cudnnGetVersion(), architecture, width));
      }
  CHECK(fused::runs(91900, 90, 64));
  CHECK_FALSE(fused::runs(91800, 90, 64));
  CHECK_FALSE(fused::runs(91900, 90, 60));
  CHECK_FALSE(fused::runs(91900, 75, 64));
}

TEST_CASE("products that end in a bias, an activation or its slope") {
  using fused::End;
  for (const int architecture : {80, 90, 100}) {
    CAPTURE(architecture);
    const auto planned = [&](bool turned, bool bias, End end, Activation f) {
      return compiles(fused::product_graph({4096, 4096, 1024, turned, bias, end, f}), architecture, 1);
    };
    CHECK(planned(true, true, End::sum, {}));
    for (const Activation f : {Activation::relu, Activation::gelu, Activation::gelu_tanh}) {
      CAPTURE(static_cast<int>(f));
      REQUIRE(fused::has(f));
      CHECK(planned(true, true, End::activation, f));
      CHECK(planned(false, false, End::slope, f));
    }
  }
  CHECK_FALSE(fused::has(Activation::tanh));
  CHECK(fused::worth(91900, 80));
  CHECK_FALSE(fused::worth(91900, 90));  // by kernels of sm_80
  CHECK(fused::worth(92600, 90));
  CHECK_FALSE(fused::worth(92600, 75));
}

TEST_CASE("a width that cuDNN refuses is an error with its words") {
  const std::string said = test::message_of([] {
    fused::forward_graph({2, 2, 264, 128, 128, false}).plan(dnn::Device(device(90)));
  });
  CHECK(said.find("no plan for a graph") != said.npos);
}

TEST_CASE("a description that lacks a property is an error") {
  const std::string said = test::message_of([] { dnn::Device("{}"); });
  CHECK(said.find("CUDNN_STATUS_BAD_PARAM") != said.npos);
}
