/* A small compiler: reads formulas as text, builds trees, folds constants, emits and runs stack code. */
#include <ctype.h>

#include "measure.h"

enum { FORMULAS = 2000, TEXT_SIZE = 1 << 20, NODES = 1024, CODE_SIZE = 1024 };

struct Node {
  char kind; /* + - * & | ^ as written, n a number, v a variable */
  uint64_t value;
  struct Node* left;
  struct Node* right;
};

struct Instruction {
  char operation;
  uint64_t value;
};

static char text[TEXT_SIZE];
static struct Node nodes[NODES];
static size_t used_nodes;
static struct Instruction code[CODE_SIZE];
static size_t code_size;
static const char* at;

/* Writes a random formula of at most `depth` nested brackets. */
static char* write_formula(char* out, uint64_t* random, int depth) {
  const uint64_t choice = next_random(random) >> 56;
  if (depth == 0 || choice < 40) {
    if (choice % 2 == 0) return out + sprintf(out, "%lu", (unsigned long)(next_random(random) >> 44));
    *out++ = (char)('a' + choice % 26);
    return out;
  }
  *out++ = '(';
  out = write_formula(out, random, depth - 1);
  *out++ = ' ';
  *out++ = "+-*&|^"[choice % 6];
  *out++ = ' ';
  out = write_formula(out, random, depth - 1);
  *out++ = ')';
  return out;
}

static struct Node* new_node(char kind, uint64_t value, struct Node* left, struct Node* right) {
  struct Node* const node = &nodes[used_nodes++];
  *node = (struct Node){kind, value, left, right};
  return node;
}

static uint64_t apply(char operation, uint64_t left, uint64_t right) {
  switch (operation) {
    case '+': return left + right;
    case '-': return left - right;
    case '*': return left * right;
    case '&': return left & right;
    case '|': return left | right;
    default: return left ^ right;
  }
}

static struct Node* parse(void) {
  while (*at == ' ') at++;
  if (isdigit((unsigned char)*at)) {
    uint64_t value = 0;
    while (isdigit((unsigned char)*at)) value = value * 10 + (uint64_t)(*at++ - '0');
    return new_node('n', value, NULL, NULL);
  }
  if (isalpha((unsigned char)*at)) return new_node('v', (uint64_t)(*at++ - 'a'), NULL, NULL);
  at++; /* the bracket */
  struct Node* const left = parse();
  while (*at == ' ') at++;
  const char operation = *at++;
  struct Node* const right = parse();
  at++;
  return new_node(operation, 0, left, right);
}

static void fold(struct Node* node) {
  if (node->left == NULL) return;
  fold(node->left);
  fold(node->right);
  if (node->left->kind != 'n' || node->right->kind != 'n') return;
  *node = (struct Node){'n', apply(node->kind, node->left->value, node->right->value), NULL, NULL};
}

static void emit(const struct Node* node) {
  if (node->left != NULL) {
    emit(node->left);
    emit(node->right);
  }
  code[code_size++] = (struct Instruction){node->kind, node->value};
}

static uint64_t run(const uint64_t* variables) {
  uint64_t stack[64];
  size_t top = 0;
  for (size_t i = 0; i < code_size; i++) {
    if (code[i].operation == 'n') {
      stack[top++] = code[i].value;
    } else if (code[i].operation == 'v') {
      stack[top++] = variables[code[i].value];
    } else {
      top--;
      stack[top - 1] = apply(code[i].operation, stack[top - 1], stack[top]);
    }
  }
  return stack[0];
}

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 80);
  uint64_t random = 1;
  uint64_t variables[26];
  char* end = text;
  for (int i = 0; i < 26; i++) variables[i] = next_random(&random);
  for (int i = 0; i < FORMULAS && end < text + TEXT_SIZE - 16384; i++) {
    end = write_formula(end, &random, 7);
    *end++ = '\n';
  }
  uint64_t hash = HASH_START;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    for (at = text; at < end; at++) {
      used_nodes = 0;
      code_size = 0;
      struct Node* const tree = parse();
      fold(tree);
      emit(tree);
      hash = hash_step(hash, run(variables));
    }
  }
  return report(now_seconds() - begin, hash);
}
