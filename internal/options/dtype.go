package options

import (
	"reflect"
	"slices"
	"strings"
)

// DTypeNamed returns the name of a data type as options have it (f32, bf16, f16), for one that PyTorch or diffusers calls float16, half, fp16,
// bfloat16 or float32. Other names are returned unchanged.
func DTypeNamed(name string) string {
	switch strings.TrimPrefix(strings.ToLower(name), "torch.") {
	case "f32", "fp32", "float32", "float":
		return "f32"
	case "bf16", "bfloat16":
		return "bf16"
	case "f16", "fp16", "float16", "half":
		return "f16"
	}
	return name
}

// spell gives a data type the name that the option has for it.
func (o Option) spell(v reflect.Value) {
	if v.Kind() == reflect.String && slices.Contains(o.Choices, "bf16") {
		v.SetString(DTypeNamed(v.String()))
	}
}
