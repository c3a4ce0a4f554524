package models

// Inputs are what the configuration of a network of any kind says of its conditioning inputs, and of dropout.
type Inputs struct {
	Classes  int     // number of classes; 0: unconditional
	Null     bool    // the label Classes stands for no class, which guidance needs
	Until    bool    // the network takes the end of a jump: Cond.Until
	Guidance bool    // the network takes a guidance scale: Cond.Guidance
	Dropout  float64 // probability of dropout, while Cond.Dropout is given
}

// And returns in with the kinds of conditioning that more has, besides its own: the end of a jump, a guidance scale, and a label for no
// class. Classes and dropout stay as they are.
func (in Inputs) And(more Inputs) Inputs {
	in.Null, in.Until, in.Guidance = in.Null || more.Null, in.Until || more.Until, in.Guidance || more.Guidance
	return in
}

// NullClass returns the label that stands for no class, -1 if there is none.
func (in Inputs) NullClass() int {
	if in.Null {
		return in.Classes
	}
	return -1
}
