/* An interpreter: a switch over the instructions of a machine with registers, which sieves primes. */
#include <string.h>

#include "measure.h"

enum Operation { LOAD_CONSTANT, ADD, ADD_CONSTANT, LOAD, STORE, JUMP, JUMP_IF_LESS, STOP };

struct Instruction {
  uint8_t operation;
  uint8_t to;
  uint8_t from;
  int32_t constant; /* or where to jump to */
};

enum { LIMIT = 20000, PRIMES_BELOW = 2262 };

/* Registers: 0 a number, 1 the limit, 2 its multiples, 3 whether struck, 4 how many, 5 their sum, 6 one. */
static const struct Instruction program[] = {
    /*  0 */ {LOAD_CONSTANT, 0, 0, 2},
    /*  1 */ {LOAD_CONSTANT, 1, 0, LIMIT},
    /*  2 */ {LOAD_CONSTANT, 6, 0, 1},
    /*  3 */ {LOAD, 3, 0, 0},
    /*  4 */ {JUMP_IF_LESS, 3, 6, 6},
    /*  5 */ {JUMP, 0, 0, 15},
    /*  6 */ {ADD_CONSTANT, 4, 0, 1},
    /*  7 */ {ADD, 5, 0, 0},
    /*  8 */ {LOAD_CONSTANT, 2, 0, 0},
    /*  9 */ {ADD, 2, 0, 0},
    /* 10 */ {ADD, 2, 0, 0},
    /* 11 */ {JUMP_IF_LESS, 2, 1, 13},
    /* 12 */ {JUMP, 0, 0, 15},
    /* 13 */ {STORE, 6, 2, 0},
    /* 14 */ {JUMP, 0, 0, 10},
    /* 15 */ {ADD_CONSTANT, 0, 0, 1},
    /* 16 */ {JUMP_IF_LESS, 0, 1, 3},
    /* 17 */ {STOP, 0, 0, 0},
};

struct Machine {
  uint64_t registers[8];
  uint8_t memory[LIMIT];
};

static void interpret(struct Machine* machine, const struct Instruction* code) {
  uint64_t* const r = machine->registers;
  for (const struct Instruction* at = code;;) {
    const struct Instruction now = *at++;
    switch (now.operation) {
      case LOAD_CONSTANT: r[now.to] = (uint64_t)now.constant; break;
      case ADD: r[now.to] += r[now.from]; break;
      case ADD_CONSTANT: r[now.to] += (uint64_t)now.constant; break;
      case LOAD: r[now.to] = machine->memory[r[now.from]]; break;
      case STORE: machine->memory[r[now.from]] = (uint8_t)r[now.to]; break;
      case JUMP: at = code + now.constant; break;
      case JUMP_IF_LESS:
        if (r[now.to] < r[now.from]) at = code + now.constant;
        break;
      default: return;
    }
  }
}

int main(int argc, char** argv) {
  static struct Machine machine;
  const unsigned long count = count_argument(argc, argv, 600);
  uint64_t hash = HASH_START;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    memset(&machine, 0, sizeof machine);
    interpret(&machine, program);
    if (machine.registers[4] != PRIMES_BELOW) return failed("wrong number of primes");
    hash = hash_step(hash_step(hash, machine.registers[4]), machine.registers[5]);
  }
  return report(now_seconds() - begin, hash);
}
