//! Scenarios: real processes, real Kafka, real Redis, real clients. Each file opens with its
//! situation, the action, and what must hold.

mod scenarios {
    mod bare_clients;
    mod batches;
    mod codes;
    mod configuration;
    mod dead_letters;
    mod deletes;
    mod descriptors;
    mod dev_mode;
    mod drain;
    mod fidelity;
    mod http_clients;
    mod instruments;
    mod internal;
    mod java_clients;
    mod kafka_bus;
    mod kafka_hangs;
    mod outages;
    mod partitioner;
    mod printed_client;
    mod random_frames;
    mod records;
    mod registry_back;
    mod registry_part;
    mod replies;
    mod rest;
    mod results;
    mod resume;
    mod resume_ends;
    mod resume_kills;
    mod resume_requests;
    mod resume_tokens;
    mod samples;
    mod sessions;
    mod slow_reader;
    mod streams;
    mod streams_resumed;
    mod stuck_output;
    mod survival;
    mod takeover;
    mod topics;
    mod unreadable;
    mod versions;
    mod views;
    mod violations;
    mod ways_back;
}
