// Package solver has ODE solvers for a denoiser's probability-flow ODE, dx/dt = (x - D(x; t))/t. Samplers use them to step down the
// noise levels (package sampling), and consistency distillation to step along a teacher's trajectory (training.CD).
//
// A [Solver] takes x [B, ...] from noise levels t [B] to next [B], which may differ between samples. It works with any models.Denoiser,
// including models.Guided. [Euler] is a first-order solver. [Heun], [DPM2] and [DPMpp2S] are second-order solvers and call the denoiser
// twice per step. Solvers have no state and may be shared by goroutines.
package solver
