// Package training trains one-step generators, from data or from a teacher.
//
// One [Trainer] runs every method; a method is an [Objective] value, and what it learns from is a [Source]: [Images], or whatever
// yields batches from a position on. Data order and noise are functions of (seed, position of the sample in the run), so that a
// resumed run repeats exactly what an uninterrupted one would have done, and a sample gets the same noise at any batch size.
package training
