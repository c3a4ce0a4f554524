// Package training trains one-step generators, from data or from a teacher.
//
// A [Trainer] is the one loop of all methods. It is given these parts:
//
//   - Objective is the method, and computes the loss of a batch: denoisers with [EDM], [DDPM] and [Flow]; consistency models
//     from data with [CT], [ECT] and [SCM]; distillation of a teacher with [CD], [CTM], [PD] and SCM; average velocities with
//     [MeanFlow]. They are plain structs over functions of package models. What else an objective may have is an interface of
//     its own ([Module], [Validator], [Describer] and others).
//   - Model is what learns, and Optimizer moves its parameters (package torch/optim).
//   - Data is a [Source], which yields batches from a position on: [Images] over a loader of package dataset, or anything else,
//     with any conditions. A [Batch] has samples X [B, C, H, W] and models.Cond.
//   - Averages are EMA weights, which snapshots hold.
//
// Train runs until Steps, or until its context is done, saves a checkpoint into a run directory (package rundir) and resumes
// from it: a resumed run repeats bit for bit what an uninterrupted one would have done, on one thread. Data order and noise are
// functions of (seed, position of the sample in the run), so that a sample gets the same noise at any batch size and with
// gradient accumulation. Losses and gradients that are not finite skip a step ([Guard]).
package training
