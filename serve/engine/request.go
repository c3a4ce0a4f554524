package engine

import (
	"image"
	"time"

	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/torch/vision"
)

// Request says what to generate. The zero value is one image of the first model, with the model's defaults and a random seed.
type Request struct {
	Client string // who asks; clients take turns in the queue
	Model  string // a [Model.Name]; "": the first one

	Prompt   string // of a pixel-space model with classes: the name or the number of a class
	Negative string
	Labels   []int    // classes of a pixel-space model, used in turn; nil: by the prompt, or else by the seed
	Classes  []string // names or numbers of classes, in place of Labels

	N        int     // number of images; 0: 1
	Seed     *uint64 // of the first image; the next ones have Seed+1, Seed+2, …; nil: random
	Steps    int     // 0: the model's default
	Guidance float64 // 0: the model's default
	Sampler  string  // "": the model's default

	// Width and Height are the size of the images in pixels; 0: the model's. A model that cannot generate them, or has learned much smaller ones,
	// generates images of its own size, which are resized.
	Width, Height int

	Init     image.Image   // image to image, and with a Mask inpainting; nil: from the prompt alone
	Mask     image.Image   // white is repainted; resized to the size of Init
	Strength float64       // of Init's change, above 0 to 1; 0: the default; see LeastStrength
	LoRAs    []prompt.LoRA // adapters by name, in addition to tags in Prompt

	// Previews is the number of events with Previews, at most, evenly over the steps; 0: none. A latent diffusion model without a small autoencoder
	// has none; see [Model.Preview].
	Previews int
	Deadline time.Duration // from the start of the request to its end, waiting included; 0: the engine's

	loads bool // only opens the model; see [Engine.Load]
}

// Event is what has happened to a request, in this order: while it waits, Queued whenever its place changes; once, Resolved; then Step after
// each step, with Previews or without, and Image for each finished image.
type Event struct {
	Queued int // requests that are to be served before this one; 0 once it is served

	Resolved *Resolved // the request as it is served; nil but once

	Step, Steps int           // the step, from 1, of those of all the request's images; 0 in events of other kinds
	Previews    []image.Image // of the images in work, of the size that is returned; usually nil

	Image *Image // a finished image, or nil
}

// Resolved is a request with the model's defaults filled in.
type Resolved struct {
	Model         string
	N             int // images, of which there may be fewer than were asked for
	Sampler       string
	Steps         int
	Guidance      float64 // 0: none
	Seed          uint64
	Width, Height int      // of the images that are returned
	Notices       []string // what a user should know: what was changed, guessed, or is not used
}

// Image is a finished image.
type Image struct {
	Image image.Image
	Seed  uint64
	Label int           // class; -1 if the model has none
	Texts []vision.Text // the settings to reproduce it, for [vision.Write]
}

// Info describes a model for clients.
type Info struct {
	Name          string
	File          string   // name of its file or directory; "": Name
	Kind          string   // "Stable Diffusion 1", "consistency model", ...; "" until it was opened or read
	Classes       []string // names of the classes, if it has any
	Width, Height int      // of its images by default
	Prompts       bool     // takes prompts of text
	Images        bool     // takes input images
	Guided        bool     // uses a guidance scale
	Negative      bool     // uses a negative prompt, with guidance above 1
	Samplers      []string
	Steps         int // by default
	InputSteps    int // by default, from an input image without a mask
	MaskSteps     int // by default, from an input image with a mask
	Loaded        bool

	Guidance                 float64 // scale by default; 1: none
	MinGuidance, MaxGuidance float64 // scales that the model is for; 0: not known
}
