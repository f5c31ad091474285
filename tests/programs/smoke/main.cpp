#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <regex>
#include <shared_mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

int main(int argc, char **argv)
{
	namespace fs = std::filesystem;
	auto directory = fs::temp_directory_path() / "x";
	fs::create_directories(directory);
	std::ofstream(directory / "file") << "one\n" << 2 << "\n";
	std::string word;
	std::ifstream(directory / "file") >> word;
	fs::rename(directory / "file", directory / "new");
	fs::create_symlink("new", directory / "file");
	fs::copy_file(directory / "file", directory / "copy");
	if (word != "one" || fs::file_size(directory / "file") != 6 || fs::space(directory).capacity == 0)
		return 1;
	for (auto &entry : fs::recursive_directory_iterator(directory))
		word += entry.path().filename().string();
	fs::remove_all(directory);
	std::atomic<int> sum = 0;
	std::shared_mutex mutex;
	std::vector<std::thread> threads;
	for (int i = 0; i < 4; i++)
		threads.emplace_back([&, i] { std::shared_lock lock(mutex); sum += i; });
	for (auto &thread : threads)
		thread.join();
	auto later = std::async(std::launch::async, [] { std::this_thread::sleep_for(std::chrono::milliseconds(5)); return 7; });
	if (later.get() != 7 || sum != 6)
		return 2;
	std::mt19937_64 random{ std::random_device{}() };
	std::map<int, std::string> map;
	for (int i = 0; i < 100000; i++)
		map[(int)(random() % 1000000)] = std::to_string(i);
	std::vector<char> big(64 << 20, 1);
	try {
		throw std::runtime_error("caught");
	} catch (const std::exception &error) {
		if (!std::regex_match(error.what(), std::regex("c.*t")))
			return 3;
	}
	std::string line;
	std::getline(std::cin, line);
	std::cout << line;
	for (int i = 1; i < argc; i++)
		std::cout << ' ' << argv[i];
	std::cerr << "bad" << std::endl;
	std::cout << std::endl << "done" << std::endl;
}
