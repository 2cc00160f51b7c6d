// Chooses the table of kernels when a model is loaded, by instruction set and precision alone.
#pragma once

#include <string>
#include <vector>

#include "dense/ops.h"

namespace pepnet {

// One instruction set in one precision.
struct Candidate {
  Isa isa;
  Precision precision;
  const Ops* ops;   // null where the compiler that built this could not make it
  bool usable;      // built, and the CPU and the system have what it needs
  std::string why;  // the features it uses, or what is missing
};

// All of them, ISA by ISA ascending, precision by precision.
const std::vector<Candidate>& candidates();

// The table for `isa`. Throws std::invalid_argument saying why when it cannot run here.
const Ops& ops_for(Isa isa, Precision precision);

struct Choice {
  const Ops* ops;
  std::string why;
};

// `isa` by name, or, when it is empty, what PEPNET_ISA says, or else the widest that is usable. Throws
// std::invalid_argument for a name that is not known or a table that cannot run here.
Choice choose(Precision precision, const std::string& isa = {});

// Throws std::invalid_argument naming those there are.
Isa isa_named(const std::string& name);
Precision precision_named(const std::string& name);

const char* name_of(Activation activation);

}  // namespace pepnet
