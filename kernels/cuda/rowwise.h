// The parameters of the row-wise kernels: copying columns to where products read them, the mix of experts,
// scores, and whatever else a network does to its rows.
#pragma once

#include "cuda/numbers.h"

namespace pepnet::cuda {

constexpr int kRowThreads = 128;
constexpr int kMostCopies = 16;
constexpr int kCopiedColumns = 4 * kRowThreads, kCopiedRows = 4;  // by a block
constexpr int kRowsApart = 128;  // below that the tasks of a row are mixed by blocks of their own

// `width` columns of a matrix, and zeros up to `padded`, to those of another.
struct ColumnCopy {
  Columns from;
  int width, padded;
  Columns to;
  bool fours;  // four columns at once: all widths and addresses are multiples of that
};
struct ColumnCopies {
  ColumnCopy copies[kMostCopies];
  int first[kMostCopies];  // block of each
  int count, blocks;
  int rows;
};

// One operand of all groups: `group` numbers from one group's columns to the next's, 0 where all read the
// same.
struct RowOperand {
  Columns at;
  int group, groups, width;
};

// h_t = Σ_e softmax_e(z_t) · h_c(t,e) for each task.
struct Mix {
  Columns z;  // logits in float32, those of a task z_group apart
  int z_group;
  Columns h;           // float32, an expert's share `columns` apart
  const int* choices;  // [tasks, experts] which share; null: the expert's own
  Columns out;         // a task's share `columns` apart
  Columns also;        // the same in another precision, or null
  int experts, columns, tasks, rows;
};

// score = σ(h·w + b) for each task.
struct Score {
  Columns h;  // float32, a task's share h_group apart
  int h_group, width, tasks, rows;
  const float *w, *b;  // [tasks, width], [tasks]
  float* out;          // [rows, stride], from the first task's column on
  int stride;
};

// An operation by its number in the list of operations/all.h.
struct RowWork {
  int which;
  RowOperand reads[2];
  RowOperand out, also;  // `also`: the same once more, in another precision, or null
  int padded;            // columns of out from the width on become zeros up to here
  const float *w, *b;    // tensors of the operation, or null
  int number;            // what else it is told
  float value;
  int rows, groups;  // of the result
};

}  // namespace pepnet::cuda
