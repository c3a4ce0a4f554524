package weights

import "strings"

// constants are the last components of names of buffers that follow from the configuration and that some programs save with the weights.
// They are ignored in every layout and component.
var constants = map[string]bool{
	"position_ids": true, "attn_mask": true, "causal_mask": true, // of text encoders: 0, 1, 2, … and masks
	"logit_scale": true, "logit_bias": true, // of CLIP's loss
	"num_batches_tracked": true,
	// of the noise schedule
	"betas": true, "alphas_cumprod": true, "alphas_cumprod_prev": true, "sqrt_alphas_cumprod": true, "sqrt_one_minus_alphas_cumprod": true,
	"log_one_minus_alphas_cumprod": true, "sqrt_recip_alphas_cumprod": true, "sqrt_recipm1_alphas_cumprod": true,
	"posterior_variance": true, "posterior_log_variance_clipped": true, "posterior_mean_coef1": true, "posterior_mean_coef2": true,
	"lvlb_weights": true, "sigmas": true, "log_sigmas": true, "logvar": true, "scale_factor": true,
	saysVelocity: true, saysZeroSNR: true, // which Options.prediction reads
}

// constant reports whether a tensor of that name is a known constant.
func constant(name string) bool { return constants[name[strings.LastIndexByte(name, '.')+1:]] }
