package weights

import "strings"

// constants are the last parts of names whose tensors say nothing of a model that its configuration does not: buffers that programs
// have saved beside weights. They are left out wherever they are, in every layout and part.
var constants = map[string]bool{
	"position_ids": true, "attn_mask": true, "causal_mask": true, // of text encoders: 0, 1, 2, … and masks
	"logit_scale": true, "logit_bias": true, // of CLIP's loss
	"num_batches_tracked": true,
	// of the noise that the model was trained with
	"betas": true, "alphas_cumprod": true, "alphas_cumprod_prev": true, "sqrt_alphas_cumprod": true, "sqrt_one_minus_alphas_cumprod": true,
	"log_one_minus_alphas_cumprod": true, "sqrt_recip_alphas_cumprod": true, "sqrt_recipm1_alphas_cumprod": true,
	"posterior_variance": true, "posterior_log_variance_clipped": true, "posterior_mean_coef1": true, "posterior_mean_coef2": true,
	"lvlb_weights": true, "sigmas": true, "log_sigmas": true, "logvar": true, "scale_factor": true,
	saysVelocity: true, saysZeroSNR: true, // which Options.prediction reads
}

// constant tells whether a tensor of that name is a known constant.
func constant(name string) bool { return constants[name[strings.LastIndexByte(name, '.')+1:]] }
