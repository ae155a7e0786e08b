"""What all samplers share: one idea, one training loop, one solver.

- prior: what statistics say of an image in closed form, and how far off that is
- cross_fitting: priors of the other people, for people in training
- patches: details from training people, as an option
- resolution: how fine that is on a grid, what it costs, and its noise levels
- network: convolutions around transformer blocks, for what is left
- denoiser: both on one flow, and its loss
- augmentation: changes of training images that a network is told of
- objectives, flow: what networks are trained to do, and the solver of the flow
- fitting, loop, state: who is fitted to what, the training, what a checkpoint holds
- pipeline: what a saved sampler is, and what decides its samples
- label_embedding: labels to vectors
- config, memory, precision: settings of a training, and what the machine can do
"""
