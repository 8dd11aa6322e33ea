//! Scenarios: real processes, real Kafka, real Redis, real clients. Each file opens with its
//! situation, the action, and what must hold.

mod scenarios {
    mod bare_clients;
    mod codes;
    mod configuration;
    mod dev_mode;
    mod drain;
    mod fidelity;
    mod outages;
    mod partitioner;
    mod random_frames;
    mod records;
    mod rest;
    mod slow_reader;
    mod violations;
    mod ways_back;
}
