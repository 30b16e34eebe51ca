// Owns: streams, events and graphs. In the natural order work runs when it is enqueued. Under a shuffled schedule it
// runs when somebody waits, streams taking turns at random within what events order: so a host that reads a result or
// reuses pinned memory too early, or a stream that waits for nothing, shows. The legacy stream never delays.
#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "emulate.hpp"
#include "memory.hpp"
#include "runtime.hpp"

namespace {

/// What an event is at, kept by the work that refers to it after the event is destroyed.
struct Mark {
  std::uint64_t recorded = 0, done = 0;  // counts of cudaEventRecord
  std::chrono::steady_clock::time_point time;
  CUgraph_st* captured = nullptr;  // the graph in which it was last recorded
};

struct Work {
  std::function<void()> run;
  std::shared_ptr<Mark> waits_for = nullptr;
  std::uint64_t count = 0;  // of waits_for->done

  bool ready() const { return !waits_for || waits_for->done >= count; }
};

}  // namespace

struct CUgraph_st {
  std::vector<std::function<void()>> work;  // in the order of enqueuing, which respects every event
  std::vector<CUstream_st*> streams;        // the one where capture began, and those that joined
  std::set<CUstream_st*> unjoined;
  bool invalid = false;
};
struct CUgraphExec_st {
  std::vector<std::function<void()>> work;
};
struct CUstream_st {
  unsigned flags = 0;
  std::uint64_t number = 0;  // in order of creation
  std::deque<Work> queue;
  CUgraph_st* capture = nullptr;
  bool freed = false;  // cudaFreeAsync was called and nobody has waited since
};
struct CUevent_st {
  unsigned flags = 0;
  std::shared_ptr<Mark> mark = std::make_shared<Mark>();
};

namespace emulate {
namespace {

struct Streams {
  std::set<CUstream_st*> all;
  std::set<CUevent_st*> events;
  std::set<CUgraph_st*> graphs;
  std::set<CUgraphExec_st*> execs;
  std::uint64_t turns = 0, created = 0, waits = 0;
};

/// Never destroyed, as device memory is not.
Streams& streams() {
  static Streams& one = *new Streams;
  return one;
}

/// Runs the next work of one stream that can go on. False when there is none.
bool take_turn() {
  std::vector<CUstream_st*> able;
  for (CUstream_st* stream : streams().all)
    if (!stream->queue.empty() && stream->queue.front().ready()) able.push_back(stream);
  if (able.empty()) return false;
  std::sort(able.begin(), able.end(), [](auto* a, auto* b) { return a->number < b->number; });
  std::uint64_t z = (seed() + ++streams().turns) * 0x9E3779B97F4A7C15ull;
  z = (z ^ z >> 32) * 0xD6E8FEB86659FD93ull;
  CUstream_st* chosen = able[(z >> 32) % able.size()];
  const Work work = std::move(chosen->queue.front());
  chosen->queue.pop_front();
  if (work.run && healthy() == cudaSuccess) {
    install_fault_handler();
    work.run();
  }
  return true;
}

cudaError_t invalidate(CUgraph_st& graph, cudaError_t code) {
  graph.invalid = true;
  return note(code);
}

/// The legacy stream comes after all that blocking streams hold.
cudaError_t before_legacy() {
  for (CUstream_st* stream : streams().all)
    if (stream->capture && stream->flags == cudaStreamDefault)
      return invalidate(*stream->capture, cudaErrorStreamCaptureImplicit);
  for (CUstream_st* stream : streams().all)
    if (stream->flags == cudaStreamDefault) finish(stream);
  return healthy();
}

cudaError_t add(cudaStream_t stream, Work work) {
  if (!valid(stream)) return note(cudaErrorInvalidResourceHandle);
  if (healthy() != cudaSuccess) return healthy();
  if (!stream) {
    if (const cudaError_t code = before_legacy(); code != cudaSuccess) return code;
    while (!work.ready() && take_turn()) {
    }
    install_fault_handler();
    if (work.run) work.run();
    return healthy();
  }
  if (stream->capture) {
    if (stream->capture->invalid) return note(cudaErrorStreamCaptureInvalidated);
    if (work.run) stream->capture->work.push_back(std::move(work.run));
    return cudaSuccess;
  }
  stream->queue.push_back(std::move(work));
  return seed() ? healthy() : finish(stream);
}

}  // namespace

bool valid(cudaStream_t stream) { return !stream || streams().all.count(stream); }
bool capturing(cudaStream_t stream) { return stream && valid(stream) && stream->capture; }
bool capturing() {
  return std::any_of(streams().all.begin(), streams().all.end(), [](CUstream_st* one) { return one->capture; });
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) { return add(stream, {std::move(work)}); }

cudaError_t enqueue_free(cudaStream_t stream, void* data) {
  if (stream) stream->freed = true;
  return enqueue(stream, [data] { free_device(data); });
}

cudaError_t touch_device(cudaStream_t stream, std::function<void()> work, bool counted) {
  return enqueue(stream, [work = std::move(work), counted] {
    {
      Access access;
      work();
    }
    const Touched touched = take_touched();
    if (counting() && !counted) count("copy", {1, touched.read, touched.written, 0});
    char text[256];
    if (!close_device_memory(text, sizeof text)) raise_fault(cudaErrorIllegalAddress, text);
  });
}

cudaError_t finish(cudaStream_t stream) {
  if (!stream) return before_legacy();
  while (!stream->queue.empty() && take_turn()) {
  }
  return healthy();
}

cudaError_t finish_all() {
  while (take_turn()) {
  }
  for (CUstream_st* stream : streams().all) stream->freed = false;
  return healthy();
}

void finish_frees() {
  for (CUstream_st* stream : streams().all)
    if (stream->freed && !stream->capture) finish(stream);
}

std::uint64_t waits_made() { return streams().waits; }

void forget_work() {
  for (CUevent_st* event : streams().events) event->mark->captured = nullptr;
  for (CUstream_st* stream : streams().all) {
    stream->queue.clear();
    CUgraph_st* graph = std::exchange(stream->capture, nullptr);
    if (streams().graphs.erase(graph)) delete graph;
  }
}

cudaError_t refuse_while_capturing() {
  for (CUstream_st* stream : streams().all)
    if (stream->capture) return invalidate(*stream->capture, cudaErrorStreamCaptureUnsupported);
  return cudaSuccess;
}

}  // namespace emulate

using namespace emulate;

// --- streams ---

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  Lock lock;
  if (!stream || flags > cudaStreamNonBlocking) return note(cudaErrorInvalidValue);
  *stream = new CUstream_st{flags, ++streams().created, {}, nullptr, false};
  streams().all.insert(*stream);
  return healthy();
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock;
  if (!stream || !valid(stream)) return note(cudaErrorInvalidResourceHandle);
  finish(stream);
  streams().all.erase(stream);
  delete stream;
  return healthy();
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock;
  if (!valid(stream)) return note(cudaErrorInvalidResourceHandle);
  if (capturing(stream)) return invalidate(*stream->capture, cudaErrorStreamCaptureUnsupported);
  const cudaError_t code = finish(stream);
  if (stream) stream->freed = false;
  return_memory();
  return code;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Lock lock;
  if (!valid(stream)) return note(cudaErrorInvalidResourceHandle);
  if (capturing(stream)) return invalidate(*stream->capture, cudaErrorStreamCaptureUnsupported);
  if (stream && !stream->queue.empty() && take_turn() && !stream->queue.empty()) return cudaErrorNotReady;
  return stream ? healthy() : finish(stream);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Lock lock;
  if (!valid(stream) || !streams().events.count(event)) return note(cudaErrorInvalidResourceHandle);
  CUgraph_st* graph = event->mark->captured;
  if (graph && stream && stream->capture != graph) {  // the stream joins the capture
    if (stream->capture) return invalidate(*graph, cudaErrorStreamCaptureUnsupported);
    stream->capture = graph;
    graph->streams.push_back(stream);
    graph->unjoined.insert(stream);
    return healthy();
  }
  if (graph && stream) {
    // The stream where capture began waits for another: that one is joined if it has nothing more to do.
    for (CUstream_st* other : graph->streams)
      if (other != stream && stream == graph->streams.front()) graph->unjoined.erase(other);
    return healthy();
  }
  return add(stream, {nullptr, event->mark, event->mark->recorded});
}

// --- events ---

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  Lock lock;
  if (!event) return note(cudaErrorInvalidValue);
  *event = new CUevent_st;
  (*event)->flags = flags;
  streams().events.insert(*event);
  return healthy();
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Lock lock;
  if (!event || !streams().events.erase(event)) return note(cudaErrorInvalidResourceHandle);
  delete event;
  return healthy();
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock;
  if (!streams().events.count(event) || !valid(stream)) return note(cudaErrorInvalidResourceHandle);
  if (capturing(stream)) {
    event->mark->captured = stream->capture;
    return stream->capture->invalid ? note(cudaErrorStreamCaptureInvalidated) : healthy();
  }
  event->mark->captured = nullptr;
  const std::uint64_t count = ++event->mark->recorded;
  return enqueue(stream, [mark = event->mark, count] {
    mark->done = count;
    mark->time = std::chrono::steady_clock::now();
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Lock lock;
  if (!streams().events.count(event)) return note(cudaErrorInvalidResourceHandle);
  if (event->mark->captured) return invalidate(*event->mark->captured, cudaErrorStreamCaptureUnsupported);
  streams().waits += event->mark->done < event->mark->recorded;
  while (event->mark->done < event->mark->recorded && take_turn()) {
  }
  return healthy();
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop) {
  Lock lock;
  if (!milliseconds) return note(cudaErrorInvalidValue);
  for (cudaEvent_t event : {start, stop})
    if (!streams().events.count(event) || !event->mark->recorded || (event->flags & cudaEventDisableTiming))
      return note(cudaErrorInvalidResourceHandle);
  for (cudaEvent_t event : {start, stop})
    if (event->mark->done < event->mark->recorded) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(stop->mark->time - start->mark->time).count();
  return healthy();
}

// --- graphs ---

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  Lock lock;
  if (!valid(stream)) return note(cudaErrorInvalidResourceHandle);
  if (!stream || stream->capture) return note(cudaErrorStreamCaptureUnsupported);
  // Stricter than a device: memory whose free is pending may be given to what is captured.
  if (stream->freed) return note(cudaErrorIllegalState);
  stream->capture = new CUgraph_st;
  stream->capture->streams.push_back(stream);
  streams().graphs.insert(stream->capture);
  return healthy();
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Lock lock;
  if (!graph) return note(cudaErrorInvalidValue);
  *graph = nullptr;
  if (!capturing(stream)) return note(cudaErrorIllegalState);
  CUgraph_st* made = stream->capture;
  if (made->streams.front() != stream) return invalidate(*made, cudaErrorStreamCaptureUnmatched);
  for (CUstream_st* one : made->streams)
    if (streams().all.count(one)) one->capture = nullptr;
  for (CUevent_st* event : streams().events)
    if (event->mark->captured == made) event->mark->captured = nullptr;
  cudaError_t code = healthy();
  if (made->invalid) code = cudaErrorStreamCaptureInvalidated;
  else if (!made->unjoined.empty()) code = cudaErrorStreamCaptureUnjoined;
  if (code != cudaSuccess) {
    streams().graphs.erase(made);
    delete made;
    return note(code);
  }
  *graph = made;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  Lock lock;
  if (!valid(stream)) return note(cudaErrorInvalidResourceHandle);
  if (!status) return note(cudaErrorInvalidValue);
  *status = !capturing(stream)         ? cudaStreamCaptureStatusNone
            : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                       : cudaStreamCaptureStatusActive;
  return healthy();
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  Lock lock;
  if (!exec || !streams().graphs.count(graph)) return note(cudaErrorInvalidValue);
  *exec = new CUgraphExec_st{graph->work};
  streams().execs.insert(*exec);
  return healthy();
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  Lock lock;
  if (!streams().execs.count(exec)) return note(cudaErrorInvalidValue);
  for (const auto& work : exec->work)
    if (const cudaError_t code = enqueue(stream, work); code != cudaSuccess) return code;
  return healthy();
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  Lock lock;
  if (!streams().execs.erase(exec)) return note(cudaErrorInvalidValue);
  delete exec;
  return healthy();
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  Lock lock;
  if (!streams().graphs.erase(graph)) return note(cudaErrorInvalidValue);
  delete graph;
  return healthy();
}
