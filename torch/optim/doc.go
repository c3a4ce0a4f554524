// Package optim has the optimizers [SGD], [Adam], [AdamW] and [RAdam], and learning-rate schedules.
//
// A configuration's zero value has PyTorch's defaults, and makes an [Optimizer] of named parameters:
//
//	opt, err := optim.RAdam{LR: 1e-4}.New(model.Parameters())
//	if err != nil {
//		return err
//	}
//	defer opt.Close()
//	for k, batch := range batches {
//		opt.ZeroGrad()
//		loss(s, batch).Backward()
//		opt.SetLR(1e-4 * schedule.At(k))
//		opt.Step(s)
//	}
//
// # Kernels
//
// Parameters with the same settings are updated in one call of libtorch's fused kernels, which read and write each element
// once. RAdam has no kernel of its own, there or in PyTorch; its normalised update is Adam's with another learning rate and
// epsilon, see [RAdam]. Milliseconds for one step of 7.0 million float32 parameters in 200 tensors on one core of an AMD
// EPYC with AVX-512 (BenchmarkStep here; scripts/bench_optim.py for PyTorch 2.11, whose default on a CPU is neither fused
// nor foreach):
//
//	             here             PyTorch
//	        fused  foreach  default  foreach  fused
//	SGD       2.1      3.5      4.2      3.7    2.2
//	Adam      3.2     24.2     11.3     13.0    3.8
//	AdamW     3.3     13.5     12.2     14.4    3.8
//	RAdam     3.2     10.8     16.0     26.6      -
//
// The fused kernels ignore strides: if a gradient's memory layout differs from its parameter's, or a parameter is a view with
// gaps, libtorch 2.11 updates wrong elements on the CPU. Those parameters are updated by foreach operators instead, and so are
// float16 and bfloat16 parameters by SGD on the CPU, whose kernel does not work.
package optim
