// expect: deleted (function|constructor)
#include <meft/autodiff/tape.hpp>

void copy(meft::Tape& tape) {
#ifdef OK
  meft::Tape& same = tape;
#else
  meft::Tape same = tape;
#endif
  same.pause();
}
