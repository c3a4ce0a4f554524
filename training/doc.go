// Package training trains one-step generators, from data or from a teacher.
//
// One [Trainer] runs every method; a method is an [Objective] value. Data order and noise are functions of (seed, images
// seen), so a resumed run repeats exactly what an uninterrupted one would have done.
package training
