package roundtrip.deletable;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.LongDeserializer;
import org.apache.kafka.common.serialization.LongSerializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.junit.jupiter.api.Test;

class InterceptorsTest {
    private static final String GUID = WireKeyTest.GUID;

    private static <K> ProducerRecord<K, String> sent(Class<?> serializer, ProducerRecord<K, String> record) {
        try (GuidProducerInterceptor<K, String> interceptor = new GuidProducerInterceptor<>()) {
            interceptor.configure(Map.of("key.serializer", serializer));
            return interceptor.onSend(record);
        }
    }

    @Test
    void aKeyGetsAGuidOfItsOwn() {
        Headers headers = new RecordHeaders().add("h", new byte[] {7});
        var record = new ProducerRecord<>("t", 3, 5L, "k#1", "v", headers);
        var one = sent(StringSerializer.class, record);
        assertEquals("k#1", WireKey.split(one.key()).orElseThrow().key());
        assertEquals(record, new ProducerRecord<>("t", one.partition(), one.timestamp(), "k#1", one.value(), one.headers()));
        assertNotEquals(one.key(), sent(StringSerializer.class, record).key());

        var bytes = sent(ByteArraySerializer.class, new ProducerRecord<>("t", new byte[] {-1}, "v"));
        assertArrayEquals(new byte[] {-1}, WireKey.split(bytes.key()).orElseThrow().key());

        var none = WireKey.split(sent(StringSerializer.class, new ProducerRecord<String, String>("t", "v")).key());
        assertEquals(none.orElseThrow().guid(), none.orElseThrow().key());
    }

    @Test
    void whatHasAGuidOrDeletesStaysAsItIs() {
        for (var record : List.of(
                new ProducerRecord<>("t", WireKey.of("k", GUID), "v"),
                new ProducerRecord<>("t", WireKey.of("k", GUID), (String) null),
                new ProducerRecord<>("t", "k", (String) null))) {
            assertSame(record, sent(StringSerializer.class, record));
        }
    }

    @Test
    void otherKeysAreRefusedBeforeAnythingIsSent() {
        try (var producer = new GuidProducerInterceptor<Long, String>();
                var consumer = new GuidConsumerInterceptor<Long, String>()) {
            for (Object type : List.of(LongSerializer.class, LongSerializer.class.getName())) {
                Map<String, ?> configs = Map.of("key.serializer", type);
                assertThrows(ConfigException.class, () -> producer.configure(configs));
            }
            Map<String, ?> configs = Map.of("key.deserializer", LongDeserializer.class);
            assertThrows(ConfigException.class, () -> consumer.configure(configs));
            producer.configure(Map.of("key.serializer", StringSerializer.class.getName()));
            consumer.configure(Map.of("key.deserializer", ByteArrayDeserializer.class.getName()));
        }
    }

    private static ConsumerRecord<String, String> record(int partition, long offset, String key, String value) {
        Headers headers = new RecordHeaders().add("h", new byte[] {7}).add("roundtrip-guid", new byte[] {1});
        int keySize = key.length();
        return new ConsumerRecord<>(
                "t", partition, offset, 5L, TimestampType.LOG_APPEND_TIME, keySize, 1, key, value, headers,
                Optional.of(9), Optional.empty());
    }

    @Test
    void readersSeeKeysAndNoDeletionsAndCommitBoth() {
        TopicPartition some = new TopicPartition("t", 0);
        TopicPartition none = new TopicPartition("t", 1);
        Map<TopicPartition, OffsetAndMetadata> next =
                Map.of(some, new OffsetAndMetadata(13), none, new OffsetAndMetadata(8));
        var read = new ConsumerRecords<>(
                Map.of(
                        some, List.of(
                                record(0, 10, WireKey.of("k", GUID), "v"),
                                record(0, 11, "plain", "w"),
                                record(0, 12, WireKey.of("k", GUID), null)),
                        none, List.of(record(1, 7, WireKey.of("", GUID), null))),
                next);
        try (var interceptor = new GuidConsumerInterceptor<String, String>()) {
            interceptor.configure(Map.of("key.deserializer", StringDeserializer.class));
            var left = interceptor.onConsume(read);
            assertEquals(Set.of(some), left.partitions());
            assertEquals(next, left.nextOffsets(), "what was left out is committed, too");
            var messages = left.records(some);
            assertEquals(2, messages.size());

            var first = messages.get(0);
            assertEquals("k", first.key());
            assertEquals("v", first.value());
            assertEquals(10, first.offset());
            assertEquals(5L, first.timestamp());
            assertEquals(1, first.serializedKeySize());
            assertEquals(Optional.of(9), first.leaderEpoch());
            assertArrayEquals(new byte[] {7}, first.headers().lastHeader("h").value());
            int count = 0;
            for (var header : first.headers().headers(GuidConsumerInterceptor.GUID_HEADER)) {
                assertEquals(GUID, new String(header.value()));
                count++;
            }
            assertEquals(1, count, "nobody can forge one");
            assertEquals("plain", messages.get(1).key());
            assertTrue(interceptor.onConsume(ConsumerRecords.empty()).isEmpty());
        }
    }
}
