package models

// Inputs are what the configuration of a network of any kind says of its conditioning inputs, and of dropout.
type Inputs struct {
	Classes  int     // number of classes; 0: unconditional
	Null     bool    // the label Classes stands for no class, which guidance needs
	Until    bool    // the network takes the end of a jump: Cond.Until
	Guidance bool    // the network takes a guidance scale: Cond.Guidance
	Dropout  float64 // probability of dropout, while Cond.Dropout is given
}

// NullClass returns the label that stands for no class, -1 if there is none.
func (in Inputs) NullClass() int {
	if in.Null {
		return in.Classes
	}
	return -1
}
