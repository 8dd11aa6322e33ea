import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;

/** Clients of Kafka's with the plug-ins of clients/java, and without. */
public class DeletableClients {
    public static void main(String[] arguments) throws Exception {
        String broker = arguments[1];
        String topic = arguments[2];
        switch (arguments[0]) {
            case "write" -> write(broker, topic, arguments[3], List.of(arguments).subList(4, arguments.length));
            case "read" -> read(broker, topic, arguments[3], arguments[4]);
            case "partitions" -> partitions(broker, topic, arguments[3], Integer.parseInt(arguments[4]));
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }

    private static Map<String, Object> writing(String broker) {
        return Map.of(
                "bootstrap.servers", broker,
                "key.serializer", "org.apache.kafka.common.serialization.ByteArraySerializer",
                "value.serializer", "org.apache.kafka.common.serialization.StringSerializer",
                "interceptor.classes", "roundtrip.deletable.GuidProducerInterceptor",
                "partitioner.class", "roundtrip.deletable.GuidPartitioner");
    }

    /** Writes values under a key. */
    private static void write(String broker, String topic, String key, List<String> values) throws Exception {
        try (var producer = new KafkaProducer<byte[], String>(writing(broker))) {
            for (String value : values) {
                byte[] bytes = key.getBytes(StandardCharsets.UTF_8);
                RecordMetadata at = producer.send(new ProducerRecord<>(topic, bytes, value)).get();
                System.out.println(at.partition() + " " + at.offset());
            }
        }
    }

    /** Reads until a value comes; prints keys, GUIDs and values, and where it would go on. */
    private static void read(String broker, String topic, String group, String last) {
        Map<String, Object> configs = Map.of(
                "bootstrap.servers", broker,
                "group.id", group,
                "auto.offset.reset", "earliest",
                "enable.auto.commit", "false",
                "key.deserializer", "org.apache.kafka.common.serialization.StringDeserializer",
                "value.deserializer", "org.apache.kafka.common.serialization.StringDeserializer",
                "interceptor.classes", "roundtrip.deletable.GuidConsumerInterceptor");
        try (var consumer = new KafkaConsumer<String, String>(configs)) {
            consumer.subscribe(List.of(topic));
            boolean isOver = false;
            while (!isOver) {
                for (var record : consumer.poll(Duration.ofMillis(100))) {
                    byte[] guid = record.headers().lastHeader("roundtrip-guid").value();
                    System.out.println(record.key() + " " + new String(guid) + " " + record.value());
                    isOver |= record.value().equals(last);
                }
            }
            // What follows it is deletions alone.
            var ends = consumer.endOffsets(consumer.assignment());
            while (ends.entrySet().stream().anyMatch(end -> consumer.position(end.getKey()) < end.getValue())) {
                for (var record : consumer.poll(Duration.ofMillis(100))) {
                    System.out.println("after the last: " + record.key() + " " + record.value());
                }
            }
            consumer.commitSync();
            ends.forEach((partition, end) -> {
                var committed = consumer.committed(Set.of(partition)).get(partition);
                if (committed == null ? end > 0 : committed.offset() < end) {
                    System.out.println("not committed: " + partition + " " + committed + " of " + end);
                }
            });
        }
    }

    /** Writes random keys to both topics, with the plug-ins and as Java does it; prints where they are. */
    private static void partitions(String broker, String topic, String plain, int count) throws Exception {
        Map<String, Object> configs = new HashMap<>(writing(broker));
        configs.remove("interceptor.classes");
        configs.remove("partitioner.class");
        Random random = new Random(3);
        List<byte[]> keys = new ArrayList<>();
        List<Future<RecordMetadata>> with = new ArrayList<>();
        List<Future<RecordMetadata>> without = new ArrayList<>();
        try (var one = new KafkaProducer<byte[], String>(writing(broker));
                var other = new KafkaProducer<byte[], String>(configs)) {
            for (int number = 0; number < count; number++) {
                byte[] key = new byte[1 + random.nextInt(40)];
                random.nextBytes(key);
                keys.add(key);
                with.add(one.send(new ProducerRecord<>(topic, key, "v")));
                without.add(other.send(new ProducerRecord<>(plain, key, "v")));
            }
            for (int number = 0; number < count; number++) {
                String key = HexFormat.of().formatHex(keys.get(number));
                System.out.println(key + " " + with.get(number).get().partition() + " "
                        + without.get(number).get().partition());
            }
        }
    }
}
