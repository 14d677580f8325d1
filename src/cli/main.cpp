// The program `vert`.
#include "cli/commands.hpp"

int main(int argc, char** argv) { return vert::cli::run_program(argc, argv); }
