// The parameters of the row-wise kernels: copying inputs to the layout of products, the mix of experts, and
// scores.
#pragma once

#include "cuda/numbers.h"

namespace pepnet::cuda {

constexpr int kRowThreads = 128;
constexpr int kMostCopies = 6;
constexpr int kCopiedColumns = 4 * kRowThreads, kCopiedRows = 4;  // by a block
constexpr int kRowsApart = 128;  // below that the tasks of a row are mixed by blocks of their own

// `width` columns of a float32 matrix, and zeros up to `padded`, to those of another.
struct ColumnCopy {
  const float* from;  // [rows, width]
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

// h_t = Σ_e softmax_e(z_t) · h_e for each task.
struct Mix {
  Columns z;    // logits in float32, those of a task side by side
  Columns h;    // float32, an expert's share `columns` apart
  Columns out;  // a task's share `columns` apart
  int experts, columns, tasks, rows;
};

// score = σ(h·w + b) for each task.
struct Score {
  Columns h;  // float32, a task's share h_group apart
  int h_group, width, tasks, rows;
  const float *w, *b;  // [tasks, width], [tasks]
  float* out;          // [rows, tasks]
};

}  // namespace pepnet::cuda
