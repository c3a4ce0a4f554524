// Package training trains one-step generators, from data or from a teacher.
//
// A [Trainer] is the training loop of all methods. Its parts are:
//
//   - Objective is the method, and computes the loss of a batch: denoisers with [EDM], [DDPM] and [Flow]; consistency models
//     from data with [CT], [ECT] and [SCM]; distillation of a teacher with [CD], [CTM], [PD] and SCM, of a latent diffusion model
//     with [LCD]; average velocities with [MeanFlow]; a style for a few-step model with [FewStep]. They
//     are plain structs over functions of package models. An objective may implement optional interfaces ([Module], [Validator],
//     [Describer] and others).
//   - Model is trained, and Optimizer updates its parameters (package torch/optim).
//   - Data is a [Source], which yields batches from a given position: [Images] over a loader of package dataset, or any other
//     source with any conditions. A [Batch] has samples X [B, C, H, W] and models.Cond.
//   - Averages are EMA weights, which snapshots hold.
//
// Train runs for Steps steps, or until its context is done. It saves checkpoints in a run directory (package rundir) and resumes
// from them: with one thread, a resumed run has the same results as an uninterrupted one, to the bit. Data order and noise depend
// only on the seed and the sample's position in the run, so that a sample gets the same noise at any batch size and with gradient
// accumulation. A step with a loss or gradient that is NaN or infinite is skipped ([Guard]).
package training
