// finetune: adapts a Hugging Face checkpoint to a task. Exit status: 0, 1 for what went wrong on the way, 2 for a wrong
// flag, 128 + the signal's number when interrupted (go on with --resume).
#include <csignal>
#include <exception>
#include <iostream>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "flags.hpp"
#include "help.hpp"
#include "report.hpp"
#include "session.hpp"
#include "terminal.hpp"

namespace {

volatile std::sig_atomic_t signal_number = 0;

/// The first signal asks the run to save and stop; a second one kills.
void on_signal(int number) { signal_number = number; }

void install() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGXFSZ, SIG_IGN);  // a file beyond a limit is then an error of write()
  std::signal(SIGPIPE, SIG_IGN);
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 4 << 20);  // fixed, so that what is large, as a batch of images, goes back when it is freed
#endif
}

}  // namespace

int main(int argc, char** argv) {
  finetune::Flags flags;
  try {
    install();
    if (!finetune::parse(argc, argv, flags)) return 0;
    const bool finished = finetune::run(flags, [] { return signal_number != 0; });
    return finished ? 0 : 128 + signal_number;
  } catch (const finetune::FlagError& error) {
    std::cerr << "finetune: " << finetune::printable(error.what()) << "\n(finetune --help lists the flags)\n";
    return 2;
  } catch (const meft::train::StepError& error) {
    std::cerr << "finetune: " << finetune::printable(error.message()) << "\n"
              << finetune::printable(finetune::remedy(error, flags)) << ".\n";
  } catch (const meft::StreamError& error) {  // outside of training: what was trained has its streams from there
    std::cerr << "finetune: " << finetune::printable(error.message()) << "\nTrain with "
              << finetune::printable(finetune::remedy_of_range()) << ".\n";
  } catch (const meft::Error& error) {
    std::cerr << "finetune: " << finetune::printable(finetune::in_flags(error.message())) << "\n";
  } catch (const std::exception& error) {
    std::cerr << "finetune: " << finetune::printable(error.what()) << "\n";
  }
  return 1;
}
