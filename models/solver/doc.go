// Package solver has the steps along a denoiser's probability-flow ODE, dx/dt = (x - D(x; t))/t: samplers go down the noise levels by
// them (package sampling), and consistency distillation follows a teacher's trajectory by them (training.CD).
//
// A [Solver] takes x [B, ...] from noise levels t [B] to next [B], which may differ from sample to sample, with any models.Denoiser,
// guided ones included. [Euler] is of the first order; [Heun], [DPM2] and [DPMpp2S] are of the second and call the denoiser twice a
// step. Solvers are values without state, so one may be shared by goroutines.
package solver
